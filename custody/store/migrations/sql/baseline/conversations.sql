-- Chats, notifications, disputes and Telegram (0011, 0012).

CREATE TABLE public.chats (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    type public.chat_type NOT NULL DEFAULT 'direct',
    purchase_request_id uuid REFERENCES public.purchase_requests (id) ON DELETE SET NULL,
    seller_offer_id uuid REFERENCES public.seller_offers (id) ON DELETE SET NULL,
    name text,
    participants jsonb NOT NULL DEFAULT '[]',
    messages jsonb NOT NULL DEFAULT '[]',
    metadata jsonb NOT NULL DEFAULT '{}',
    last_message_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX chats_legacy_object_id_unique
    ON public.chats (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX chats_purchase_request ON public.chats (purchase_request_id);

CREATE TABLE public.notifications (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id text NOT NULL,
    title text NOT NULL,
    message text NOT NULL DEFAULT '',
    category text NOT NULL,
    type text NOT NULL,
    is_read boolean NOT NULL DEFAULT false,
    related_id text,
    action_url text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX notifications_legacy_object_id_unique
    ON public.notifications (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX notifications_user ON public.notifications (user_id, is_read, created_at DESC);
CREATE INDEX notifications_created_at ON public.notifications (created_at);

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

CREATE TABLE public.telegram_links (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id uuid NOT NULL UNIQUE REFERENCES public.users (id) ON DELETE CASCADE,
    telegram_user_id text NOT NULL UNIQUE,
    username text,
    first_name text,
    last_name text,
    photo_url text,
    source public.telegram_link_source NOT NULL,
    status public.telegram_link_status NOT NULL DEFAULT 'active',
    last_seen_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX telegram_links_legacy_object_id_unique
    ON public.telegram_links (legacy_object_id) WHERE legacy_object_id IS NOT NULL;

CREATE TABLE public.telegram_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    user_id uuid REFERENCES public.users (id) ON DELETE CASCADE,
    telegram_user_id text NOT NULL,
    token_hash text NOT NULL UNIQUE,
    init_data_fingerprint text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX telegram_sessions_legacy_object_id_unique
    ON public.telegram_sessions (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX telegram_sessions_expires_at ON public.telegram_sessions (expires_at);
