-- The bridge between both stores (0000, 0005, 0013).

CREATE TABLE public.id_map (
    collection text NOT NULL,
    legacy_object_id text NOT NULL,
    new_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, legacy_object_id),
    CONSTRAINT id_map_new_id_unique UNIQUE (new_id)
);

CREATE TABLE public.pg_dualwrite_gaps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    collection text NOT NULL,
    op text NOT NULL,
    legacy_object_id text,
    payload jsonb NOT NULL,
    severity text NOT NULL,
    reason text NOT NULL,
    resolved_at timestamptz,
    resolved_by text,
    resolution text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pg_dualwrite_gaps_open ON public.pg_dualwrite_gaps (collection, created_at) WHERE resolved_at IS NULL;
