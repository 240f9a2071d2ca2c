-- Marketplace users' Trezor accounts (0003, 0014).

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
