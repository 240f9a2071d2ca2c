-- Sessions at the signer API (custody-rules R6): opened by a device's signature over a LOGIN text, short, kept hashed.

-- A login challenge is spent by whatever answers it, right or wrong.
ALTER TABLE fleet.signer_challenges ADD COLUMN used_at timestamptz;
CREATE INDEX signer_challenges_login ON fleet.signer_challenges (expires_at) WHERE purpose = 'login';

CREATE TABLE fleet.signer_sessions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    address text NOT NULL CHECK (address ~ '^0x[0-9a-fA-F]{40}$'),
    role text NOT NULL CHECK (role IN ('approver', 'treasury', 'owner')),
    person text CHECK (length(person) BETWEEN 1 AND 32),
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL CHECK (expires_at > opened_at AND expires_at <= opened_at + interval '8 hours 1 minute'),
    ended_at timestamptz,
    ended_by text,
    ended_reason text,
    CHECK ((role = 'approver') = (person IS NOT NULL)),
    CHECK (num_nonnulls(ended_at, ended_by, ended_reason) IN (0, 3))
);
CREATE INDEX signer_sessions_open ON fleet.signer_sessions (address, opened_at) WHERE ended_at IS NULL;

-- Devices that log in no more: lost ones, from the minute somebody says so, whatever the genesis still says.
CREATE TABLE fleet.barred_signers (
    address text PRIMARY KEY CHECK (address ~ '^0x[0-9a-fA-F]{40}$'),
    barred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    barred_by text NOT NULL CHECK (length(barred_by) BETWEEN 1 AND 100),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500)
);

-- Whose session handed it in: a rejection has no signature that would say so.
ALTER TABLE fleet.signature_submissions ADD COLUMN submitted_by text CHECK (submitted_by ~ '^0x[0-9a-fA-F]{40}$');

-- R2: its amount is read in smallest units on a device that cannot name the token; it takes one more approval.
ALTER TABLE fleet.release_instructions ADD COLUMN raw_units boolean NOT NULL DEFAULT false;
ALTER TABLE fleet.release_requests DROP CONSTRAINT release_requests_kind_check,
    ADD CONSTRAINT release_requests_kind_check CHECK (kind IN ('cancel', 'bump', 'raw_units'));
