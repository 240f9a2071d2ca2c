-- Runtime configuration and its history.

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
