-- What gas an entry of a house book cost each payment, wei; the shares of an entry are the entry, exactly (L6).
CREATE TABLE fleet.gas_shares (
    entry_id uuid NOT NULL REFERENCES public.funds_ledger_entries (id),
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    wei numeric(78, 0) NOT NULL CHECK (wei > 0),
    PRIMARY KEY (entry_id, payment_id)
);
CREATE INDEX gas_shares_payment ON fleet.gas_shares (payment_id);

CREATE FUNCTION fleet.require_gas_sum() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_entry numeric;
    v_shares numeric;
BEGIN
    SELECT e.amount * 1000000000000000000 INTO v_entry FROM public.funds_ledger_entries e WHERE e.id = NEW.entry_id;
    SELECT sum(s.wei) INTO v_shares FROM fleet.gas_shares s WHERE s.entry_id = NEW.entry_id;
    IF v_shares IS DISTINCT FROM v_entry THEN
        RAISE EXCEPTION 'gas shares of entry % are % wei in all; it says % (L6)', NEW.entry_id, v_shares, trim_scale(v_entry)
            USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'gas_shares', CONSTRAINT = 'gas_shares_sum';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER gas_shares_sum AFTER INSERT ON fleet.gas_shares
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fleet.require_gas_sum();

-- One transaction of the gas payer that sweeps many destinations: fleet.chain_transactions.subject_id is the batch.
CREATE TABLE fleet.sweep_batches (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    chain_id bigint NOT NULL,
    token text NOT NULL,
    strategy text NOT NULL,
    treasury text NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'dissolved')),
    reason text,                                -- why its jobs went back to be planned anew
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);
ALTER TABLE fleet.sweep_jobs
    ADD COLUMN batch_id uuid REFERENCES fleet.sweep_batches (id),
    ADD COLUMN batch_tries smallint NOT NULL DEFAULT 0 CHECK (batch_tries >= 0);
CREATE INDEX sweep_jobs_batch ON fleet.sweep_jobs (batch_id) WHERE batch_id IS NOT NULL;

-- What each destination's key signs for a batch, stored before it signs: the same is signed again after a crash.
CREATE TABLE fleet.sweep_batch_items (
    batch_id uuid NOT NULL REFERENCES fleet.sweep_batches (id),
    job_id uuid NOT NULL REFERENCES fleet.sweep_jobs (id),
    place integer NOT NULL CHECK (place >= 0),
    authority_nonce bigint CHECK (authority_nonce >= 0),                         -- EIP-7702; NULL where it stands already
    authorization_nonce bytea UNIQUE CHECK (length(authorization_nonce) = 32),   -- EIP-3009, random
    valid_before bigint,                                                         -- EIP-3009, Unix seconds
    PRIMARY KEY (batch_id, job_id),
    UNIQUE (batch_id, place),
    CHECK ((authorization_nonce IS NULL) = (valid_before IS NULL))
);

-- Methods that exclude one another: an address has one of them for life. A delegated address signs for no token (EIP-1271).
CREATE TABLE fleet.destination_methods (
    destination_id uuid PRIMARY KEY REFERENCES public.derived_destinations (id),
    method text NOT NULL CHECK (method IN ('eip7702', 'eip3009')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- When coins last came to the treasury by a transaction of ours (house funding looks at each block).
CREATE INDEX chain_transactions_recipient ON fleet.chain_transactions (chain_id, recipient, block_number);
