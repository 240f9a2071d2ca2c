-- How far `fleet mirror backfill` came in each collection; written in the transaction of each batch.
CREATE TABLE fleet.backfill_progress (
    collection text NOT NULL,
    -- documents: everything but references to rows that come later; references: those.
    stage text NOT NULL CHECK (stage IN ('documents', 'references')),
    since timestamptz,                          -- only documents changed from then on; NULL: all
    last_id jsonb,                              -- {"_id": the last one done}, as canonical Extended JSON; NULL: none yet
    seen bigint NOT NULL DEFAULT 0 CHECK (seen >= 0),
    inserted bigint NOT NULL DEFAULT 0 CHECK (inserted >= 0),
    updated bigint NOT NULL DEFAULT 0 CHECK (updated >= 0),
    refused bigint NOT NULL DEFAULT 0 CHECK (refused >= 0),
    waiting bigint NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (collection, stage)
);

-- What is reported again is not doubled, and what succeeded is closed: both ask for a document's open gaps.
CREATE INDEX pg_dualwrite_gaps_document ON public.pg_dualwrite_gaps (collection, legacy_object_id) WHERE resolved_at IS NULL;
