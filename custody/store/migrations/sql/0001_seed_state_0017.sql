-- The payments and custody part of the marketplace's schema as its own migrations leave it at 0017.
-- Columns the seed does not spell out are derived from its prose; docs/data-model.md lists them.

CREATE TYPE public.user_role AS ENUM ('admin', 'buyer', 'seller', 'resolver', 'guard');
CREATE TYPE public.auth_provider AS ENUM ('email', 'google', 'telegram');
CREATE TYPE public.user_status AS ENUM ('active', 'suspended', 'deleted');
CREATE TYPE public.purchase_request_status AS ENUM (
    'pending_payment', 'pending', 'received_offers', 'in_negotiation', 'payment_pending', 'payment_confirmed',
    'in_progress', 'delivery', 'delivered', 'completed', 'disputed', 'refunded', 'seller_paid');
CREATE TYPE public.offer_status AS ENUM ('pending', 'accepted', 'rejected', 'withdrawn', 'active');
CREATE TYPE public.offer_currency AS ENUM ('USD', 'EUR', 'IRR', 'USDT', 'USDC', 'TRY');
CREATE TYPE public.payment_provider AS ENUM ('request.network', 'amn.scanner', 'shkeeper', 'other');
CREATE TYPE public.payment_status AS ENUM (
    'pending', 'processing', 'confirmed', 'completed', 'failed', 'cancelled', 'refunded');
CREATE TYPE public.escrow_state AS ENUM (
    'funded', 'releasable', 'released', 'refunded', 'releasing', 'failed', 'cancelled', 'partial');
CREATE TYPE public.funds_ledger_entry_type AS ENUM (
    'payment_detected', 'provider_fee', 'platform_fee', 'hold', 'release', 'refund', 'dispute_hold', 'adjustment');
CREATE TYPE public.derived_destination_status AS ENUM ('active', 'swept', 'sweeping', 'quarantined');
CREATE TYPE public.ref_kind AS ENUM ('entity', 'template');

CREATE TABLE public.id_map (
    collection text NOT NULL,
    legacy_object_id text NOT NULL,
    new_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, legacy_object_id),
    CONSTRAINT id_map_new_id_unique UNIQUE (new_id)
);

CREATE TABLE public.pg_dualwrite_gaps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    collection text NOT NULL,
    op text NOT NULL,
    legacy_object_id text,
    payload jsonb NOT NULL,
    severity text NOT NULL,
    reason text NOT NULL,
    resolved_at timestamptz,
    resolved_by text,
    resolution text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pg_dualwrite_gaps_open ON public.pg_dualwrite_gaps (collection, created_at) WHERE resolved_at IS NULL;

CREATE TABLE public.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    email varchar(255),
    password varchar(255),
    first_name text,
    last_name text,
    role public.user_role NOT NULL DEFAULT 'buyer',
    status public.user_status NOT NULL DEFAULT 'active',
    is_email_verified boolean NOT NULL DEFAULT false,
    auth_provider public.auth_provider NOT NULL DEFAULT 'email',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_legacy_object_id_unique ON public.users (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX users_email_unique ON public.users (email) WHERE email IS NOT NULL;

CREATE TABLE public.purchase_requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    buyer_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    title varchar(200) NOT NULL,
    description varchar(2000) NOT NULL DEFAULT '',
    product_type text NOT NULL DEFAULT 'physical_product',
    budget_currency text NOT NULL DEFAULT 'USDT',
    status public.purchase_request_status NOT NULL DEFAULT 'pending',
    selected_offer_id uuid,
    delivery_code text,
    delivered_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX purchase_requests_legacy_object_id_unique
    ON public.purchase_requests (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX purchase_requests_buyer_status ON public.purchase_requests (buyer_id, status);

CREATE TABLE public.seller_offers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    seller_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    purchase_request_id uuid NOT NULL REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    title varchar(200) NOT NULL,
    description varchar(1000) NOT NULL DEFAULT '',
    price_amount numeric(18, 8) NOT NULL CHECK (price_amount >= 0),
    price_currency public.offer_currency NOT NULL,
    status public.offer_status NOT NULL DEFAULT 'pending',
    require_aml_check boolean NOT NULL DEFAULT false,
    aml_block_on_failure boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX seller_offers_legacy_object_id_unique
    ON public.seller_offers (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX seller_offers_request_status ON public.seller_offers (purchase_request_id, status);

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

CREATE TABLE public.derived_destinations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    buyer_id uuid NOT NULL REFERENCES public.users (id),
    seller_offer_ref_kind public.ref_kind NOT NULL,
    seller_offer_id uuid REFERENCES public.seller_offers (id),
    seller_offer_external_ref text,
    chain_id bigint NOT NULL,
    address text NOT NULL,
    derivation_path text NOT NULL,
    derivation_index bigint NOT NULL UNIQUE CHECK (derivation_index >= 0),
    status public.derived_destination_status NOT NULL DEFAULT 'active',
    balance numeric(78, 0) NOT NULL DEFAULT 0 CHECK (balance >= 0),
    sweep_count integer NOT NULL DEFAULT 0 CHECK (sweep_count >= 0),
    total_swept numeric(78, 0) NOT NULL DEFAULT 0 CHECK (total_swept >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT derived_destinations_seller_offer_ref CHECK (
        (seller_offer_ref_kind = 'entity' AND seller_offer_id IS NOT NULL AND seller_offer_external_ref IS NULL)
        OR (seller_offer_ref_kind = 'template' AND seller_offer_id IS NULL AND seller_offer_external_ref IS NOT NULL))
);
CREATE UNIQUE INDEX derived_destinations_legacy_object_id_unique
    ON public.derived_destinations (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX derived_destinations_key ON public.derived_destinations (
    buyer_id, seller_offer_ref_kind, coalesce(seller_offer_id::text, seller_offer_external_ref), chain_id);
CREATE INDEX derived_destinations_address ON public.derived_destinations (address);

CREATE TABLE public.derived_destination_sweeps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    derived_destination_id uuid NOT NULL REFERENCES public.derived_destinations (id),
    chain_id bigint NOT NULL,
    token_address text NOT NULL,
    transaction_hash text NOT NULL,
    log_index integer,
    block_number bigint,
    from_address text NOT NULL,
    to_address text NOT NULL,
    amount numeric(78, 0) NOT NULL CHECK (amount >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX derived_destination_sweeps_legacy_object_id_unique
    ON public.derived_destination_sweeps (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX derived_destination_sweeps_destination ON public.derived_destination_sweeps (derived_destination_id, created_at);

CREATE TABLE public.trezor_accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id uuid NOT NULL REFERENCES public.users (id),
    xpub_fingerprint text NOT NULL UNIQUE,
    xpub text NOT NULL,
    base_path text NOT NULL DEFAULT 'm/44''/60''/0''',
    registration_address text NOT NULL,
    next_address_index integer NOT NULL DEFAULT 1 CHECK (next_address_index >= 1),
    device_label text,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX trezor_accounts_legacy_object_id_unique
    ON public.trezor_accounts (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX trezor_accounts_one_active_per_user ON public.trezor_accounts (user_id) WHERE active;

CREATE TABLE public.trezor_derived_addresses (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    trezor_account_id uuid NOT NULL REFERENCES public.trezor_accounts (id),
    address_index integer NOT NULL CHECK (address_index >= 0),
    address text NOT NULL UNIQUE,
    path text NOT NULL,
    purpose text NOT NULL,
    payment_id uuid REFERENCES public.payments (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (trezor_account_id, address_index)
);
CREATE UNIQUE INDEX trezor_derived_addresses_legacy_object_id_unique
    ON public.trezor_derived_addresses (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX trezor_derived_addresses_payment
    ON public.trezor_derived_addresses (trezor_account_id, payment_id, purpose) WHERE payment_id IS NOT NULL;

CREATE TABLE public.config_settings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    key text NOT NULL UNIQUE,
    value jsonb NOT NULL,
    description text,
    updated_by uuid REFERENCES public.users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX config_settings_legacy_object_id_unique
    ON public.config_settings (legacy_object_id) WHERE legacy_object_id IS NOT NULL;

CREATE TABLE public.config_setting_history (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    key text NOT NULL REFERENCES public.config_settings (key),
    old_value numeric,
    new_value numeric NOT NULL,
    changed_by uuid REFERENCES public.users (id),
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX config_setting_history_legacy_object_id_unique
    ON public.config_setting_history (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX config_setting_history_key_changed ON public.config_setting_history (key, changed_at DESC, id DESC);

CREATE TABLE public.disputes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    purchase_request_id text NOT NULL,
    buyer_id text NOT NULL,
    seller_id text NOT NULL,
    admin_id text,
    reason varchar(200) NOT NULL,
    description varchar(2000) NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'open',
    priority text NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high', 'urgent')),
    category text NOT NULL DEFAULT 'other',
    evidence jsonb NOT NULL DEFAULT '[]',
    timeline jsonb NOT NULL DEFAULT '[]',
    resolution jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX disputes_legacy_object_id_unique ON public.disputes (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX disputes_purchase_request ON public.disputes (purchase_request_id);
