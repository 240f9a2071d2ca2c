-- Derived destinations and their sweeps (0003, 0014).

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
