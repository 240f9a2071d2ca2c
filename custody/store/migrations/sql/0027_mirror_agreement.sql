-- Whether MongoDB and Postgres hold the same (custody/mirror/agreement): of each collection its last whole round and the one
-- under way, and every difference by its document. No value of a document is kept here, only the names of its fields.

CREATE TABLE fleet.mirror_agreements (
    collection text PRIMARY KEY CHECK (length(collection) BETWEEN 1 AND 100),
    began_at timestamptz,
    finished_at timestamptz,
    documents bigint NOT NULL DEFAULT 0,
    table_rows bigint NOT NULL DEFAULT 0,
    equal bigint NOT NULL DEFAULT 0,
    different bigint NOT NULL DEFAULT 0,
    unreadable bigint NOT NULL DEFAULT 0,
    waiting bigint NOT NULL DEFAULT 0,
    digest bytea CHECK (length(digest) = 32),
    left_out text[] NOT NULL DEFAULT '{}',
    next_start text NOT NULL DEFAULT '' CHECK (length(next_start) IN (0, 24)),
    running jsonb,
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE fleet.mirror_differences (
    collection text NOT NULL,
    object_id text NOT NULL CHECK (length(object_id) BETWEEN 1 AND 2000),
    verdict text NOT NULL,
    reason text NOT NULL,
    fields text[] NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'open', 'healed', 'asked', 'security', 'unreadable')),
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,
    PRIMARY KEY (collection, object_id)
);
CREATE INDEX mirror_differences_open ON fleet.mirror_differences (collection) WHERE resolved_at IS NULL;
