-- Users and what belongs to one (0003, 0013, 0014, 0016).

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
    telegram_verified boolean NOT NULL DEFAULT false,
    profile jsonb NOT NULL DEFAULT '{}',
    preferences jsonb NOT NULL DEFAULT '{}',
    referral_code text,
    referred_by_id uuid REFERENCES public.users (id) ON DELETE SET NULL,
    points_total integer NOT NULL DEFAULT 0 CONSTRAINT users_points_total CHECK (points_total >= 0),
    points_available integer NOT NULL DEFAULT 0 CONSTRAINT users_points_available CHECK (points_available >= 0),
    points_level integer NOT NULL DEFAULT 1 CONSTRAINT users_points_level CHECK (points_level >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_legacy_object_id_unique ON public.users (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX users_email_unique ON public.users (email) WHERE email IS NOT NULL;
CREATE UNIQUE INDEX users_referral_code_unique ON public.users (referral_code) WHERE referral_code IS NOT NULL;

CREATE TABLE public.user_passkeys (
    credential_id text PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    public_key text NOT NULL,
    counter bigint NOT NULL DEFAULT 0 CHECK (counter >= 0),
    device_type text,
    device_name text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX user_passkeys_user ON public.user_passkeys (user_id);

CREATE TABLE public.user_refresh_tokens (
    token text PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX user_refresh_tokens_user ON public.user_refresh_tokens (user_id);

CREATE TABLE public.addresses (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    type public.address_type NOT NULL DEFAULT 'Home',
    full_name text NOT NULL DEFAULT '',
    phone text,
    country text,
    city text,
    street text,
    postal_code text,
    is_primary boolean NOT NULL DEFAULT false,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX addresses_legacy_object_id_unique
    ON public.addresses (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX addresses_one_primary_per_user ON public.addresses (user_id) WHERE is_primary AND deleted_at IS NULL;
CREATE INDEX addresses_user ON public.addresses (user_id) WHERE deleted_at IS NULL;

CREATE TABLE public.point_transactions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    type text NOT NULL,
    source text NOT NULL,
    amount integer NOT NULL CONSTRAINT point_transactions_amount_not_zero CHECK (amount <> 0),
    balance_after integer CONSTRAINT point_transactions_balance_after CHECK (balance_after >= 0),
    description text,
    related_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX point_transactions_legacy_object_id_unique
    ON public.point_transactions (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX point_transactions_user ON public.point_transactions (user_id, created_at DESC);
