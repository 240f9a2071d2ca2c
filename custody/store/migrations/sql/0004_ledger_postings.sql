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
    payment_id uuid,
    purchase_request_ref_kind public.ref_kind, purchase_request_id uuid, purchase_request_external_ref text,
    seller_offer_ref_kind public.ref_kind, seller_offer_id uuid, seller_offer_external_ref text,
    seller_ref_kind public.ref_kind, seller_id uuid, seller_external_ref text,
    -- written
    is_new boolean, moves_epoch boolean, entry_id uuid, book_seq bigint, prev_hash bytea, entry_hash bytea
);
