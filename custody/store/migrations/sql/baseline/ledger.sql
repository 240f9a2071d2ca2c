-- The ledger, append-only (0003, 0004a, 0013, 0015).

CREATE TABLE public.funds_ledger_entries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    payment_id uuid REFERENCES public.payments (id),
    purchase_request_ref_kind public.ref_kind,
    purchase_request_id uuid REFERENCES public.purchase_requests (id),
    purchase_request_external_ref text,
    seller_offer_ref_kind public.ref_kind,
    seller_offer_id uuid REFERENCES public.seller_offers (id),
    seller_offer_external_ref text,
    seller_ref_kind public.ref_kind,
    seller_id uuid REFERENCES public.users (id),
    seller_external_ref text,
    entry_type public.funds_ledger_entry_type NOT NULL,
    amount numeric(38, 18) NOT NULL,
    currency text NOT NULL,
    idempotency_key text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT funds_ledger_entries_purchase_request_ref CHECK (
        (purchase_request_ref_kind IS NULL AND purchase_request_id IS NULL AND purchase_request_external_ref IS NULL)
        OR (purchase_request_ref_kind = 'entity' AND purchase_request_id IS NOT NULL AND purchase_request_external_ref IS NULL)
        OR (purchase_request_ref_kind = 'template' AND purchase_request_id IS NULL AND purchase_request_external_ref IS NOT NULL)),
    CONSTRAINT funds_ledger_entries_seller_offer_ref CHECK (
        (seller_offer_ref_kind IS NULL AND seller_offer_id IS NULL AND seller_offer_external_ref IS NULL)
        OR (seller_offer_ref_kind = 'entity' AND seller_offer_id IS NOT NULL AND seller_offer_external_ref IS NULL)
        OR (seller_offer_ref_kind = 'template' AND seller_offer_id IS NULL AND seller_offer_external_ref IS NOT NULL)),
    CONSTRAINT funds_ledger_entries_seller_ref CHECK (
        (seller_ref_kind IS NULL AND seller_id IS NULL AND seller_external_ref IS NULL)
        OR (seller_ref_kind = 'entity' AND seller_id IS NOT NULL AND seller_external_ref IS NULL)
        OR (seller_ref_kind = 'template' AND seller_id IS NULL AND seller_external_ref IS NOT NULL))
);
CREATE UNIQUE INDEX funds_ledger_entries_legacy_object_id_unique
    ON public.funds_ledger_entries (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX funds_ledger_entries_payment ON public.funds_ledger_entries (payment_id, created_at);

-- Migrations 0004, 0013 and 0015: nothing edits, deletes or truncates the ledger.
CREATE FUNCTION public.refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'funds_ledger_entries is append-only: % refused; post an adjustment instead', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER funds_ledger_entries_no_update BEFORE UPDATE ON public.funds_ledger_entries
    FOR EACH ROW EXECUTE FUNCTION public.refuse_ledger_change();
CREATE TRIGGER funds_ledger_entries_no_delete BEFORE DELETE ON public.funds_ledger_entries
    FOR EACH ROW EXECUTE FUNCTION public.refuse_ledger_change();
CREATE TRIGGER funds_ledger_entries_no_truncate BEFORE TRUNCATE ON public.funds_ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_ledger_change();
