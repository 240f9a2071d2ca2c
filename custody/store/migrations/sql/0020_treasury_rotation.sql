-- R22: what lies at a former treasury is moved to the active one by instructions of their own kind.
ALTER TABLE fleet.release_instructions
    DROP CONSTRAINT release_instructions_purpose_check,
    ADD CONSTRAINT release_instructions_purpose_check CHECK (purpose IN ('release', 'refund', 'drain'));

-- That an operator ordered a draining treasury's coins to be moved; of a compromised one they are moved without an order.
CREATE TABLE fleet.treasury_drains (
    chain_id bigint NOT NULL,
    treasury text NOT NULL,
    ordered_by text NOT NULL CHECK (length(ordered_by) BETWEEN 1 AND 100),     -- a label, never an authority (R10)
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (chain_id, treasury)
);
