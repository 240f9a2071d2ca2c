-- How far the mirror has followed the ledger: entries of lower transactions were asked for (custody/store/sql/entry_mirroring.sql).
CREATE TABLE fleet.mirror_cursor (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    next_tx bigint NOT NULL CHECK (next_tx >= 0)
);
-- What finished before now has its outbox rows from post_entry() itself. What has not may be asked for twice: harmless.
INSERT INTO fleet.mirror_cursor (next_tx) SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- Pages that no summary covers are read by every look for new entries; without this they grow until the next vacuum.
ALTER INDEX public.funds_ledger_entries_tx SET (autosummarize = on);
