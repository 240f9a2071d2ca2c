-- Purchase requests with their children, and the sellers' offers (0003, 0004b, 0007, 0010, 0014).

CREATE TABLE public.purchase_requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    buyer_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    title varchar(200) NOT NULL,
    description varchar(2000) NOT NULL DEFAULT '',
    product_type text NOT NULL DEFAULT 'physical_product',
    category_id uuid REFERENCES public.categories (id) ON DELETE SET NULL,
    product_link text,
    size varchar(100),
    color varchar(100),
    brand varchar(100),
    urgency text,
    budget_amount numeric(38, 18) CONSTRAINT purchase_requests_budget_amount CHECK (budget_amount >= 0),
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

CREATE INDEX purchase_requests_category ON public.purchase_requests (category_id);

CREATE TABLE public.purchase_request_delivery_info (
    purchase_request_id uuid PRIMARY KEY REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    method text,
    preferred_date timestamptz,
    instructions text,
    recipient_name text,
    recipient_phone text
);

CREATE TABLE public.purchase_request_delivery_address (
    purchase_request_id uuid PRIMARY KEY REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    country text,
    city text,
    street text,
    postal_code text
);

CREATE TABLE public.purchase_request_seller_delivery_info (
    purchase_request_id uuid PRIMARY KEY REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    carrier text,
    tracking_number text,
    shipped_at timestamptz,
    estimated_delivery_at timestamptz,
    notes text
);

CREATE TABLE public.delivery_attempts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    purchase_request_id uuid NOT NULL REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    ordinal integer NOT NULL CHECK (ordinal >= 0),
    attempted_by_id uuid REFERENCES public.users (id) ON DELETE SET NULL,
    succeeded boolean NOT NULL,
    attempted_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (purchase_request_id, ordinal)
);

CREATE TABLE public.purchase_request_service_info (
    purchase_request_id uuid PRIMARY KEY REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    service_type text,
    duration text,
    location text,
    requirements text
);

-- Migration 0010: one value a key.
CREATE TABLE public.purchase_request_specifications (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    purchase_request_id uuid NOT NULL REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    key text NOT NULL,
    value text NOT NULL,
    ordinal integer NOT NULL DEFAULT 0 CHECK (ordinal >= 0),
    CONSTRAINT purchase_request_specifications_key_unique UNIQUE (purchase_request_id, key)
);

CREATE TABLE public.purchase_request_preferred_sellers (
    purchase_request_id uuid NOT NULL REFERENCES public.purchase_requests (id) ON DELETE CASCADE,
    seller_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    PRIMARY KEY (purchase_request_id, seller_id)
);

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
    delivery_days integer CHECK (delivery_days >= 0),
    attachments jsonb NOT NULL DEFAULT '[]',
    require_aml_check boolean NOT NULL DEFAULT false,
    aml_block_on_failure boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX seller_offers_legacy_object_id_unique
    ON public.seller_offers (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX seller_offers_request_status ON public.seller_offers (purchase_request_id, status);

-- Migration 0014: the offer that was taken.
ALTER TABLE public.purchase_requests ADD CONSTRAINT purchase_requests_selected_offer_id_fkey
    FOREIGN KEY (selected_offer_id) REFERENCES public.seller_offers (id) ON DELETE SET NULL;
