-- An entry on its way into the ledger: what the caller said, and what the database found about it in one look
-- (custody/ledger/sql/posting_checks.sql). post_entry() handles one, post_entries() an array of them.
CREATE TYPE fleet.posting AS (
    place integer,                  -- in the batch, from 1
    book_kind text, book_id uuid, chain_id bigint, token text,
    entry_type public.funds_ledger_entry_type, reason text, debit text, credit text, amount numeric,
    idempotency_key text, debit_address text, credit_address text,
    fact_id uuid, instruction_id uuid, reverses_entry_id uuid, evidence jsonb,
    content_hash bytea,
    -- found
    symbol text, decimals smallint,
    is_allowed boolean,             -- posting_rules has it for this session's role
    reverses boolean,
    fact_fits boolean, instruction_fits boolean, reversal_fits boolean,
    balance_kind text, is_primary boolean, dispute_open integer, seq bigint, head_hash bytea, release_epoch bigint,
    standing_id uuid, standing_hash bytea,      -- the entry that has this key already
    payment_id uuid, payment_state text,
    purchase_request_ref_kind public.ref_kind, purchase_request_id uuid, purchase_request_external_ref text,
    seller_offer_ref_kind public.ref_kind, seller_offer_id uuid, seller_offer_external_ref text,
    seller_ref_kind public.ref_kind, seller_id uuid, seller_external_ref text,
    -- written
    is_new boolean, moves_epoch boolean, entry_id uuid, book_seq bigint, prev_hash bytea, entry_hash bytea
);

-- L2: Σ legs of a fact = its amount, judged at commit (custody/ledger/sql/fact_sums.sql).
ALTER TABLE fleet.chain_facts ADD COLUMN unbooked_units numeric(78, 0) NOT NULL DEFAULT 0 CHECK (unbooked_units >= 0);
CREATE CONSTRAINT TRIGGER funds_ledger_entries_fact_sum AFTER INSERT ON public.funds_ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.fact_id IS NOT NULL AND 'destination' IN (NEW.debit, NEW.credit))
    EXECUTE FUNCTION fleet.require_fact_sum();
ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_fact_sum;

-- The payments' state machine (custody/payments/sql/payment_transitions.sql).
CREATE TRIGGER payments_moves BEFORE UPDATE ON public.payments FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.escrow_state IS DISTINCT FROM NEW.escrow_state)
    EXECUTE FUNCTION fleet.refuse_illegal_move();
ALTER TABLE public.payments ENABLE ALWAYS TRIGGER payments_moves;

-- R10: what a person asks to be done by hand: proposed by one, executed by another. --by is a label, never an authority:
-- until signatures of two persons can be checked, only development chains execute (custody/ledger/sql/operator_actions.sql).
CREATE TABLE fleet.operator_actions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    kind text NOT NULL CHECK (kind IN ('adjust')),
    chain_id bigint NOT NULL,
    parameters jsonb NOT NULL,
    parameter_hash bytea NOT NULL,              -- what the two agree on: sha256 of the kind and the parameters' text
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    proposed_by text NOT NULL CHECK (length(proposed_by) BETWEEN 1 AND 100),
    proposed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state text NOT NULL DEFAULT 'proposed' CHECK (state IN ('proposed', 'executed', 'withdrawn')),
    ended_by text CHECK (length(ended_by) BETWEEN 1 AND 100),
    ended_at timestamptz,
    entry_id uuid REFERENCES public.funds_ledger_entries (id),
    CHECK ((state = 'proposed') = (ended_by IS NULL AND ended_at IS NULL)),
    CHECK ((state = 'executed') = (entry_id IS NOT NULL)),
    CHECK (state <> 'executed' OR ended_by <> proposed_by)
);
CREATE INDEX operator_actions_open ON fleet.operator_actions (proposed_at) WHERE state = 'proposed';
