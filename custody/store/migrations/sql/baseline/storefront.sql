-- Templates, reviews, shops and the blog (0010; scaffolded in the schema).

CREATE TABLE public.request_templates (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    seller_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    category_id uuid REFERENCES public.categories (id) ON DELETE SET NULL,
    title varchar(200) NOT NULL,
    description varchar(2000) NOT NULL DEFAULT '',
    product_type text NOT NULL DEFAULT 'physical_product',
    share_link text,
    usage_count integer NOT NULL DEFAULT 0 CHECK (usage_count >= 0),
    is_active boolean NOT NULL DEFAULT true,
    specifications jsonb NOT NULL DEFAULT '[]',
    default_proposal jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX request_templates_legacy_object_id_unique
    ON public.request_templates (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX request_templates_share_link_unique ON public.request_templates (share_link) WHERE share_link IS NOT NULL;
CREATE INDEX request_templates_seller ON public.request_templates (seller_id, is_active);

CREATE TABLE public.reviews (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    reviewer_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    subject_type public.review_subject_kind NOT NULL,
    subject_id uuid NOT NULL,
    purchase_request_id uuid REFERENCES public.purchase_requests (id) ON DELETE SET NULL,
    rating smallint NOT NULL CONSTRAINT reviews_rating CHECK (rating BETWEEN 1 AND 5),
    comment text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX reviews_legacy_object_id_unique
    ON public.reviews (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE UNIQUE INDEX reviews_one_per_reviewer_and_subject ON public.reviews (reviewer_id, subject_type, subject_id);
CREATE INDEX reviews_subject ON public.reviews (subject_type, subject_id);

CREATE TABLE public.shop_settings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    seller_id uuid NOT NULL UNIQUE REFERENCES public.users (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    avatar text,
    cover_image text,
    reviews_enabled boolean NOT NULL DEFAULT true,
    social_links jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX shop_settings_legacy_object_id_unique
    ON public.shop_settings (legacy_object_id) WHERE legacy_object_id IS NOT NULL;

CREATE TABLE public.blog_posts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    author_id uuid REFERENCES public.users (id) ON DELETE SET NULL,
    title text NOT NULL,
    slug text NOT NULL UNIQUE,
    content text NOT NULL DEFAULT '',
    media jsonb NOT NULL DEFAULT '[]',
    seo jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'draft' CONSTRAINT blog_posts_status CHECK (status IN ('draft', 'published', 'archived')),
    views integer NOT NULL DEFAULT 0 CHECK (views >= 0),
    likes integer NOT NULL DEFAULT 0 CHECK (likes >= 0),
    published_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX blog_posts_legacy_object_id_unique
    ON public.blog_posts (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
CREATE INDEX blog_posts_status_published ON public.blog_posts (status, published_at DESC);
