-- Which store decides of a domain (design §3): what two persons cut it over to last, else what it began with.

-- What the releases worker was set to when nobody had cut the domain over (REPO_<DOMAIN>), in its own words.
CREATE TABLE fleet.domain_beginnings (
    domain text PRIMARY KEY CHECK (domain IN ('dispute', 'marketplace')),
    store text NOT NULL CHECK (store IN ('mongo', 'dual')),
    said_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Append-only. evidence: how the domain stood when it was executed, as it was judged.
CREATE TABLE fleet.cutovers (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain text NOT NULL CHECK (domain IN ('dispute', 'marketplace')),
    from_store text NOT NULL CHECK (from_store IN ('mongo', 'dual', 'pg')),
    to_store text NOT NULL CHECK (to_store IN ('mongo', 'dual', 'pg')),
    action_id uuid NOT NULL UNIQUE REFERENCES fleet.operator_actions (id),
    evidence jsonb NOT NULL,
    executed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (from_store <> to_store)
);
CREATE INDEX cutovers_newest ON fleet.cutovers (domain, number DESC);

CREATE FUNCTION fleet.refuse_cutover_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'fleet.cutovers only grows: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER cutovers_no_change BEFORE UPDATE OR DELETE ON fleet.cutovers FOR EACH ROW
    EXECUTE FUNCTION fleet.refuse_cutover_change();
CREATE TRIGGER cutovers_no_truncate BEFORE TRUNCATE ON fleet.cutovers FOR EACH STATEMENT
    EXECUTE FUNCTION fleet.refuse_cutover_change();
ALTER TABLE fleet.cutovers ENABLE ALWAYS TRIGGER cutovers_no_change;
ALTER TABLE fleet.cutovers ENABLE ALWAYS TRIGGER cutovers_no_truncate;

-- Answers compared since the last one that differed; what was counted before says nothing of when it differed.
ALTER TABLE fleet.shadow_reads ADD COLUMN agreed bigint NOT NULL DEFAULT 0 CHECK (agreed BETWEEN 0 AND compared);

ALTER TABLE fleet.operator_actions
    DROP CONSTRAINT operator_actions_kind,
    ADD CONSTRAINT operator_actions_kind
        CHECK (kind IN ('adjust', 'go_on', 'break_glass', 'readmit', 'delist', 'cutover', 'resolve_gap'));
