-- How far Postgres has followed MongoDB (custody/mirror/following): one row of the whole database, '*', and one a collection that
-- is or was read by the time of its documents. A batch of documents and its place are written in one transaction.
CREATE TABLE fleet.mirror_following (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
    mode text NOT NULL CHECK (mode IN ('stream', 'catching_up', 'scan')),
    -- Where it goes on, as canonical Extended JSON: of '*' the change stream's, of a collection its last document's.
    token jsonb,
    reason text CHECK (length(reason) <= 500),  -- why it is not a stream
    followed_to timestamptz NOT NULL,           -- everything that was written before was applied
    caught_up boolean NOT NULL DEFAULT false,
    by_backend bigint NOT NULL DEFAULT 0 CHECK (by_backend >= 0),  -- changes of others, and those of the mirror itself
    by_fleet bigint NOT NULL DEFAULT 0 CHECK (by_fleet >= 0),
    applied bigint NOT NULL DEFAULT 0 CHECK (applied >= 0),        -- documents brought over or found equal
    refused bigint NOT NULL DEFAULT 0 CHECK (refused >= 0),        -- documents that became gaps
    version bigint NOT NULL DEFAULT 0,          -- rises with every change: of two followers one notices
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Documents that are looked at once more without a change: what they wait for may have come.
CREATE TABLE fleet.mirror_revisits (
    collection text NOT NULL,
    object_id text NOT NULL CHECK (object_id ~ '^[0-9a-f]{24}$'),
    reason text NOT NULL CHECK (reason IN ('suspected', 'behind', 'left', 'refused', 'frozen')),
    attempts integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_after timestamptz NOT NULL,
    written_at timestamptz,                     -- when the document was last written, where that is known
    row_changed_at timestamptz,                 -- the row's own time when it was looked at
    PRIMARY KEY (collection, object_id)
);
CREATE INDEX mirror_revisits_due ON fleet.mirror_revisits (run_after);
