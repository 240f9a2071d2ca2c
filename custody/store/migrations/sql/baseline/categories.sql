-- Categories (0000, 0002, 0009).

CREATE TABLE public.categories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    legacy_object_id text,
    name text NOT NULL,
    name_en text,
    description text,
    parent_id uuid REFERENCES public.categories (id) ON DELETE SET NULL,
    is_active boolean NOT NULL DEFAULT true,
    sort_order integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX categories_legacy_object_id_unique
    ON public.categories (legacy_object_id) WHERE legacy_object_id IS NOT NULL;
-- Migration 0009: one active category a name, however it is spelled.
CREATE UNIQUE INDEX categories_active_name_unique ON public.categories (lower(btrim(name))) WHERE is_active;
CREATE INDEX categories_parent ON public.categories (parent_id);
