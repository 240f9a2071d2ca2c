-- How a marketplace Trezor came to be registered (custody-rules R3, R6). The accounts themselves are the seed's:
-- public.trezor_accounts and public.trezor_derived_addresses.

CREATE TABLE fleet.registration_invitations (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES public.users (id),
    code_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(code_sha256) = 32),
    invited_by text NOT NULL CHECK (invited_by <> ''),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

-- The server's nonce: hex inside the text that a device signs, single use, at most two minutes.
CREATE TABLE fleet.signer_challenges (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    purpose text NOT NULL CHECK (purpose IN ('register', 'login')),
    nonce bytea NOT NULL UNIQUE CHECK (octet_length(nonce) = 16),
    invitation_id uuid REFERENCES fleet.registration_invitations (id),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL CHECK (expires_at <= created_at + interval '120 seconds'),
    CHECK ((purpose = 'register') = (invitation_id IS NOT NULL))
);
CREATE INDEX signer_challenges_invitation ON fleet.signer_challenges (invitation_id) WHERE invitation_id IS NOT NULL;

CREATE TABLE fleet.trezor_registrations (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    challenge_id uuid NOT NULL UNIQUE REFERENCES fleet.signer_challenges (id),
    xpub text NOT NULL CHECK (length(xpub) <= 128 AND xpub LIKE 'xpub%'),
    address text NOT NULL CHECK (address ~ '^0x[0-9a-fA-F]{40}$'),
    device_fingerprint text NOT NULL CHECK (device_fingerprint ~ '^[0-9a-f]{8}$'),
    device_model text NOT NULL CHECK (device_model ~ '^[A-Z0-9]{4}$'),
    device_label text CHECK (length(device_label) <= 64),
    signature bytea NOT NULL CHECK (octet_length(signature) = 65),
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'accepted', 'refused')),
    reason text,
    trezor_account_id uuid REFERENCES public.trezor_accounts (id),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    judged_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    revoked_reason text,
    CHECK ((state = 'accepted') = (trezor_account_id IS NOT NULL)),
    CHECK ((state = 'refused') = (reason IS NOT NULL))
);
CREATE INDEX trezor_registrations_received ON fleet.trezor_registrations (received_at) WHERE state = 'received';
