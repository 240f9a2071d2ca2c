-- The ledger's own columns and tables (design §4, ledger-rules "Movements").

-- One row a legal movement. A reversal (adjustment : reorg) swaps debit and credit of the row it reverses.
CREATE TABLE fleet.posting_rules (
    book_kind text NOT NULL CHECK (book_kind IN ('payment', 'house')),
    entry_type public.funds_ledger_entry_type NOT NULL,
    reason text NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    poster_role text NOT NULL,
    needs_fact boolean NOT NULL DEFAULT false,          -- L2
    needs_instruction boolean NOT NULL DEFAULT false,
    reverses boolean NOT NULL DEFAULT false,
    PRIMARY KEY (book_kind, entry_type, reason, debit, credit, poster_role)
);

-- Nullable for rows that the backend wrote before the fleet joined; post_entry() fills every one.
ALTER TABLE public.funds_ledger_entries
    ADD COLUMN book_kind text,
    ADD COLUMN book_id uuid,
    ADD COLUMN chain_id bigint,
    ADD COLUMN token text,
    ADD COLUMN reason text,
    ADD COLUMN debit text,
    ADD COLUMN credit text,
    ADD COLUMN debit_address text,
    ADD COLUMN credit_address text,
    ADD COLUMN poster_role text,
    ADD COLUMN fact_id uuid REFERENCES fleet.chain_facts (id),
    ADD COLUMN instruction_id uuid REFERENCES fleet.release_instructions (id),
    ADD COLUMN reverses_entry_id uuid REFERENCES public.funds_ledger_entries (id),
    ADD COLUMN book_seq bigint,
    ADD COLUMN content_hash bytea,
    ADD COLUMN prev_hash bytea,
    ADD COLUMN entry_hash bytea,
    ADD COLUMN tx_id bigint,
    ADD CONSTRAINT funds_ledger_entries_rule FOREIGN KEY (book_kind, entry_type, reason, debit, credit, poster_role)
        REFERENCES fleet.posting_rules (book_kind, entry_type, reason, debit, credit, poster_role);

-- What an entry must be, in one CHECK: PostgreSQL reads each CHECK's text again for every statement, and these four
-- (three of them the marketplace's own, 0013, word for word in meaning) cost a quarter of a whole post_entry().
-- Raises check_violation and names the rule as constraint, the marketplace's by their old names.
CREATE FUNCTION fleet.entry_is_sound(e public.funds_ledger_entries) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_rule text;
BEGIN
    IF e.book_id IS NOT NULL AND (
        e.amount <= 0 OR e.debit = e.credit
        OR num_nulls(e.book_kind, e.chain_id, e.token, e.reason, e.debit, e.credit, e.poster_role, e.book_seq,
                     e.content_hash, e.prev_hash, e.entry_hash, e.tx_id, e.idempotency_key) > 0) THEN
        v_rule := 'funds_ledger_entries_posted';
    ELSIF NOT (CASE e.purchase_request_ref_kind
        WHEN 'entity' THEN e.purchase_request_id IS NOT NULL AND e.purchase_request_external_ref IS NULL
        WHEN 'template' THEN e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NOT NULL
        ELSE e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_purchase_request_ref';
    ELSIF NOT (CASE e.seller_offer_ref_kind
        WHEN 'entity' THEN e.seller_offer_id IS NOT NULL AND e.seller_offer_external_ref IS NULL
        WHEN 'template' THEN e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NOT NULL
        ELSE e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_seller_offer_ref';
    ELSIF NOT (CASE e.seller_ref_kind
        WHEN 'entity' THEN e.seller_id IS NOT NULL AND e.seller_external_ref IS NULL
        WHEN 'template' THEN e.seller_id IS NULL AND e.seller_external_ref IS NOT NULL
        ELSE e.seller_id IS NULL AND e.seller_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_seller_ref';
    ELSE
        RETURN true;
    END IF;
    RAISE EXCEPTION 'entry % breaks %', e.id, v_rule
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'funds_ledger_entries', CONSTRAINT = v_rule;
END $$;
ALTER TABLE public.funds_ledger_entries
    DROP CONSTRAINT funds_ledger_entries_purchase_request_ref,
    DROP CONSTRAINT funds_ledger_entries_seller_offer_ref,
    DROP CONSTRAINT funds_ledger_entries_seller_ref,
    ADD CONSTRAINT funds_ledger_entries_sound CHECK (fleet.entry_is_sound(funds_ledger_entries));

CREATE UNIQUE INDEX funds_ledger_entries_key ON public.funds_ledger_entries (book_id, idempotency_key);
-- The book comes after the asset: with it first, a lookup of (book, key) may walk the whole book through this index.
CREATE UNIQUE INDEX funds_ledger_entries_chain ON public.funds_ledger_entries (chain_id, token, book_id, book_seq);
CREATE UNIQUE INDEX funds_ledger_entries_one_reversal
    ON public.funds_ledger_entries (reverses_entry_id) WHERE reverses_entry_id IS NOT NULL;
CREATE INDEX funds_ledger_entries_tx ON public.funds_ledger_entries USING brin (tx_id);
CREATE INDEX funds_ledger_entries_fact ON public.funds_ledger_entries (fact_id) WHERE fact_id IS NOT NULL;
CREATE INDEX funds_ledger_entries_instruction
    ON public.funds_ledger_entries (instruction_id) WHERE instruction_id IS NOT NULL;
-- How much of the house's coin lies at one deposit address: few rows an address.
CREATE INDEX funds_ledger_entries_float_in
    ON public.funds_ledger_entries (debit_address) WHERE debit = 'gas_float';
CREATE INDEX funds_ledger_entries_float_out
    ON public.funds_ledger_entries (credit_address) WHERE credit = 'gas_float';

ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_no_update;
ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_no_delete;
ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_no_truncate;

-- One row a (book, asset): the lock, the invariants and the chain head in one place (L10).
-- The two totals, assets + expenses and liabilities + equity + overdraft, are equal by construction.
CREATE TABLE fleet.ledger_balances (
    book_kind text NOT NULL,
    book_id uuid NOT NULL,
    chain_id bigint NOT NULL,
    token text NOT NULL,
    is_primary boolean NOT NULL,
    destination numeric(38, 18) NOT NULL DEFAULT 0,
    treasury numeric(38, 18) NOT NULL DEFAULT 0,
    transfer_cost numeric(38, 18) NOT NULL DEFAULT 0,
    loss numeric(38, 18) NOT NULL DEFAULT 0,
    gas_payer numeric(38, 18) NOT NULL DEFAULT 0,
    gas_float numeric(38, 18) NOT NULL DEFAULT 0,
    treasury_house numeric(38, 18) NOT NULL DEFAULT 0,
    gas_spent numeric(38, 18) NOT NULL DEFAULT 0,
    in_transit numeric(38, 18) NOT NULL DEFAULT 0,
    payer_paid numeric(38, 18) NOT NULL DEFAULT 0,
    detected numeric(38, 18) NOT NULL DEFAULT 0,
    held numeric(38, 18) NOT NULL DEFAULT 0,
    disputed numeric(38, 18) NOT NULL DEFAULT 0,
    releasing numeric(38, 18) NOT NULL DEFAULT 0,
    refunding numeric(38, 18) NOT NULL DEFAULT 0,
    paying_fees numeric(38, 18) NOT NULL DEFAULT 0,
    platform_fees numeric(38, 18) NOT NULL DEFAULT 0,
    provider_fees numeric(38, 18) NOT NULL DEFAULT 0,
    suspense numeric(38, 18) NOT NULL DEFAULT 0,
    overdraft numeric(38, 18) NOT NULL DEFAULT 0,
    gas_funding numeric(38, 18) NOT NULL DEFAULT 0,
    provider_received numeric(38, 18) NOT NULL DEFAULT 0,
    dispute_open integer NOT NULL DEFAULT 0,
    release_epoch bigint NOT NULL DEFAULT 0,
    seq bigint NOT NULL DEFAULT 0,
    head_hash bytea NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (book_id, chain_id, token),
    FOREIGN KEY (chain_id, token) REFERENCES fleet.tokens (chain_id, token)
) WITH (fillfactor = 70);  -- room beside each row for its next version: most entries touch no index (HOT)

-- Every rule a balance row must keep, in one CHECK: PostgreSQL reads each CHECK's text again for every statement, and
-- twenty-four of them cost more than all the rest of an entry. Raises check_violation and names the rule as constraint.
CREATE FUNCTION fleet.balance_is_sound(b fleet.ledger_balances) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_rule text;
BEGIN
    IF least(b.destination, b.treasury, b.transfer_cost, b.loss, b.gas_payer, b.gas_float, b.treasury_house, b.gas_spent,
             b.in_transit, b.payer_paid, b.detected, b.held, b.disputed, b.releasing, b.refunding, b.paying_fees,
             b.platform_fees, b.provider_fees, b.suspense, b.overdraft, b.gas_funding, b.provider_received, b.dispute_open) < 0 THEN
        SELECT 'ledger_balances_' || account.key INTO v_rule FROM jsonb_each_text(to_jsonb(b)) AS account
        WHERE account.value LIKE '-%' AND account.key NOT IN ('book_id', 'head_hash', 'updated_at', 'token') LIMIT 1;
    -- L3: what is promised never exceeds what the treasury holds for this book.
    ELSIF b.releasing + b.refunding + b.paying_fees > b.treasury THEN
        v_rule := 'ledger_balances_promises_covered';
    -- L10: only the primary row of a payment carries escrow.
    ELSIF NOT b.is_primary AND greatest(b.held, b.disputed, b.releasing, b.paying_fees, b.platform_fees, b.provider_fees) > 0 THEN
        v_rule := 'ledger_balances_primary_only';
    ELSIF b.destination + b.treasury + b.transfer_cost + b.loss + b.gas_payer + b.gas_float + b.treasury_house + b.gas_spent
          + b.in_transit + b.payer_paid
          <> b.detected + b.held + b.disputed + b.releasing + b.refunding + b.paying_fees + b.platform_fees
          + b.provider_fees + b.suspense + b.overdraft + b.gas_funding + b.provider_received THEN
        v_rule := 'ledger_balances_balanced';
    ELSIF b.book_kind NOT IN ('payment', 'house') THEN
        v_rule := 'ledger_balances_book_kind';
    ELSE
        RETURN true;
    END IF;
    RAISE EXCEPTION 'book % would break %: an account below zero, promises above its treasury, or totals that differ',
        b.book_id, v_rule
        USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'ledger_balances', CONSTRAINT = v_rule;
END $$;
ALTER TABLE fleet.ledger_balances ADD CONSTRAINT ledger_balances_sound CHECK (fleet.balance_is_sound(ledger_balances));
-- What the sweep planner looks for; holds and releases leave this column alone and stay HOT.
CREATE INDEX ledger_balances_unswept ON fleet.ledger_balances (book_id) WHERE book_kind = 'payment' AND destination > 0;
