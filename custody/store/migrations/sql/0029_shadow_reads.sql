-- How often both stores were asked the same of a domain that is written to both, and how often they differed.
CREATE TABLE fleet.shadow_reads (
    domain text PRIMARY KEY CHECK (domain IN ('dispute', 'marketplace')),
    compared bigint NOT NULL CHECK (compared >= 0),
    mismatched bigint NOT NULL CHECK (mismatched BETWEEN 0 AND compared),
    last_mismatch jsonb,
    last_mismatch_at timestamptz,
    since timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
