-- Each way a payment may move, one row a source (custody/payments/sql/payment_transitions.sql fills it).
CREATE TABLE fleet.payment_transitions (
    name text NOT NULL,
    from_status public.payment_status NOT NULL,
    from_escrow public.escrow_state,
    to_status public.payment_status NOT NULL,
    to_escrow public.escrow_state,
    entry_type public.funds_ledger_entry_type,  -- what is appended with the move
    needs text CHECK (needs IN ('reserve', 'void', 'final')),   -- the entry's reason, where the books are asked first
    UNIQUE NULLS NOT DISTINCT (from_status, from_escrow, to_status, to_escrow)
);
