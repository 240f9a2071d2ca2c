-- Payments and their quotes (0003, 0005, 0008, 0013, 0014).

CREATE TABLE public.payments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    purchase_request_ref_kind public.ref_kind NOT NULL,
    purchase_request_id uuid REFERENCES public.purchase_requests (id),
    purchase_request_external_ref text,
    seller_offer_ref_kind public.ref_kind NOT NULL,
    seller_offer_id uuid REFERENCES public.seller_offers (id),
    seller_offer_external_ref text,
    buyer_id uuid NOT NULL REFERENCES public.users (id),
    seller_ref_kind public.ref_kind NOT NULL,
    seller_id uuid REFERENCES public.users (id),
    seller_external_ref text,
    amount numeric(38, 18) NOT NULL CONSTRAINT payments_amount_positive CHECK (amount > 0),
    currency text NOT NULL DEFAULT 'USDT',
    provider public.payment_provider NOT NULL DEFAULT 'request.network',
    direction text NOT NULL DEFAULT 'in' CONSTRAINT payments_direction CHECK (direction IN ('in', 'out', 'refund')),
    network text,
    chain_id bigint,
    token_address text,
    transaction_hash text,
    sender text,
    confirmations integer CONSTRAINT payments_confirmations CHECK (confirmations >= 0),
    status public.payment_status NOT NULL DEFAULT 'pending',
    escrow_state public.escrow_state,
    provider_payment_id text,
    payment_reference text,
    disputed boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payments_purchase_request_ref CHECK (
        (purchase_request_ref_kind = 'entity' AND purchase_request_id IS NOT NULL AND purchase_request_external_ref IS NULL)
        OR (purchase_request_ref_kind = 'template' AND purchase_request_id IS NULL AND purchase_request_external_ref IS NOT NULL)),
    CONSTRAINT payments_seller_offer_ref CHECK (
        (seller_offer_ref_kind = 'entity' AND seller_offer_id IS NOT NULL AND seller_offer_external_ref IS NULL)
        OR (seller_offer_ref_kind = 'template' AND seller_offer_id IS NULL AND seller_offer_external_ref IS NOT NULL)),
    CONSTRAINT payments_seller_ref CHECK (
        (seller_ref_kind = 'entity' AND seller_id IS NOT NULL AND seller_external_ref IS NULL)
        OR (seller_ref_kind = 'template' AND seller_id IS NULL AND seller_external_ref IS NOT NULL))
);
CREATE UNIQUE INDEX payments_legacy_object_id_unique ON public.payments (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX uniq_pending_request_network_by_buyer_session ON public.payments (
    buyer_id, purchase_request_ref_kind, coalesce(purchase_request_id::text, purchase_request_external_ref),
    seller_offer_ref_kind, coalesce(seller_offer_id::text, seller_offer_external_ref))
    WHERE status = 'pending' AND provider = 'request.network' AND direction = 'in';
CREATE INDEX payments_buyer_status ON public.payments (buyer_id, status);
CREATE INDEX payments_seller_status ON public.payments (seller_id, status);
CREATE INDEX payments_provider_payment_id ON public.payments (provider_payment_id) WHERE provider_payment_id IS NOT NULL;
CREATE INDEX payments_payment_reference ON public.payments (payment_reference) WHERE payment_reference IS NOT NULL;
CREATE INDEX payments_escrow_state ON public.payments (escrow_state, updated_at);
CREATE INDEX payments_purchase_request ON public.payments (purchase_request_id);

CREATE TABLE public.payment_quotes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id uuid NOT NULL UNIQUE REFERENCES public.payments (id),
    fx_rate numeric(38, 18) NOT NULL CONSTRAINT payment_quotes_fx_rate_positive CHECK (fx_rate > 0),
    token_price_usd numeric(38, 18) NOT NULL CHECK (token_price_usd > 0),
    depeg_adjustment_bps integer NOT NULL DEFAULT 0,
    settle_amount numeric(38, 18) NOT NULL CONSTRAINT payment_quotes_settle_amount_positive CHECK (settle_amount > 0),
    chain_id bigint NOT NULL,
    token_address text NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
