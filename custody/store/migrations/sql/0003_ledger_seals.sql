-- Seals of the ledger: one signed Merkle root over each finished window of transactions (design §4).

CREATE TABLE fleet.ledger_seals (
    seal_no bigint PRIMARY KEY CHECK (seal_no >= 1),
    from_tx bigint NOT NULL UNIQUE,             -- the window: from_tx <= tx_id < to_tx, all of them finished
    to_tx bigint NOT NULL UNIQUE CHECK (to_tx > from_tx),
    entries bigint NOT NULL CHECK (entries > 0),
    merkle_root bytea NOT NULL,
    prev_seal_hash bytea NOT NULL,
    sealed_at timestamptz NOT NULL,
    key_id text NOT NULL,
    seal_hash bytea NOT NULL,
    signature bytea NOT NULL,
    -- The window's (entry id, leaf hash) pairs, 48 bytes each: they name the row when the root does not fit.
    leaves bytea NOT NULL
);
ALTER TABLE fleet.ledger_seals ALTER COLUMN leaves SET STORAGE EXTERNAL;  -- hashes do not compress

CREATE FUNCTION fleet.refuse_seal_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger_seals is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_seals_no_change BEFORE UPDATE OR DELETE ON fleet.ledger_seals
    FOR EACH ROW EXECUTE FUNCTION fleet.refuse_seal_change();
CREATE TRIGGER ledger_seals_no_truncate BEFORE TRUNCATE ON fleet.ledger_seals
    FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_seal_change();
ALTER TABLE fleet.ledger_seals ENABLE ALWAYS TRIGGER ledger_seals_no_change;
ALTER TABLE fleet.ledger_seals ENABLE ALWAYS TRIGGER ledger_seals_no_truncate;

-- The sealer reads the newest pages each second: without this they are in no summary until the next vacuum.
ALTER INDEX public.funds_ledger_entries_tx SET (autosummarize = on);
