-- How an instruction lives on after hand-out: every digest of its nonce, what people ask of it, disputes in the books,
-- and where a refund may go.

-- R1: all that was ever handed to a signer for one nonce. The mined one decides. Bytes are never changed (grants).
CREATE TABLE fleet.nonce_digests (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    instruction_id uuid NOT NULL REFERENCES fleet.release_instructions (id),
    place smallint NOT NULL CHECK (place BETWEEN 0 AND 31),     -- the order they were handed out in
    kind text NOT NULL CHECK (kind IN ('payout', 'cancel')),
    unsigned_bytes bytea NOT NULL,
    signing_hash bytea NOT NULL,
    max_total_fee_wei numeric(78, 0) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    signed_bytes bytea,
    transaction_hash text,
    signed_at timestamptz,
    UNIQUE (instruction_id, place),
    UNIQUE (instruction_id, signing_hash),
    CHECK (num_nulls(signed_bytes, transaction_hash, signed_at) IN (0, 3))
);
INSERT INTO fleet.nonce_digests (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei, created_at)
SELECT id, 0, 'payout', unsigned_bytes, signing_hash, max_total_fee_wei, coalesce(handed_out_at, created_at)
FROM fleet.release_instructions WHERE unsigned_bytes IS NOT NULL AND signing_hash IS NOT NULL AND max_total_fee_wei IS NOT NULL;

-- What an operator, or a dispute, asks of an instruction. The releases worker does it, or says why not.
CREATE TABLE fleet.release_requests (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    instruction_id uuid NOT NULL REFERENCES fleet.release_instructions (id),
    kind text NOT NULL CHECK (kind IN ('cancel', 'bump')),
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    requested_by text NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 100),
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'done', 'refused')),
    answer text,                                -- why it waits, or what came of it
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX release_requests_one_open ON fleet.release_requests (instruction_id, kind) WHERE state = 'received';
CREATE INDEX release_requests_due ON fleet.release_requests (run_after, id) WHERE state = 'received';

-- L4: the disputes behind dispute_open. One that is opened again is another opening (L1: dispute:{id}:{opening}:{leg}).
CREATE TABLE fleet.payment_disputes (
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    dispute_id text NOT NULL CHECK (length(dispute_id) BETWEEN 1 AND 48),
    opening integer NOT NULL CHECK (opening >= 1),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    outcome text CHECK (outcome IN ('release', 'refund', 'split')),
    refund_amount numeric(38, 18) CHECK (refund_amount >= 0),   -- of what was disputed, whole tokens; the rest is the seller's
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at timestamptz,
    held_reason text,                           -- why it cannot be settled, or its release not be drafted, yet
    release_due boolean NOT NULL DEFAULT false, -- the seller's part waits to be drafted
    PRIMARY KEY (payment_id, dispute_id, opening),
    CHECK ((state = 'closed') = (outcome IS NOT NULL AND refund_amount IS NOT NULL AND closed_at IS NOT NULL))
);
CREATE UNIQUE INDEX payment_disputes_one_open ON fleet.payment_disputes (payment_id, dispute_id) WHERE state = 'open';
CREATE INDEX payment_disputes_open ON fleet.payment_disputes (payment_id) WHERE state = 'open';
CREATE INDEX payment_disputes_release_due ON fleet.payment_disputes (payment_id) WHERE release_due;

-- Money that is owed back to a buyer, until an instruction to an address of R21 can be made of it.
CREATE TABLE fleet.refund_orders (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    cause text NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),    -- dispute:{id}:{opening}, surplus, operator:{reason}
    source text NOT NULL CHECK (source IN ('held', 'disputed', 'suspense')),
    amount numeric(38, 18) NOT NULL CHECK (amount > 0),         -- whole tokens of the payment's primary asset
    ordered_by text NOT NULL CHECK (length(ordered_by) BETWEEN 1 AND 100),
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    instruction_id uuid REFERENCES fleet.release_instructions (id),
    held_reason text,
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    UNIQUE (payment_id, cause)
);
CREATE INDEX refund_orders_due ON fleet.refund_orders (run_after, id) WHERE instruction_id IS NULL;

-- R21: where a buyer's money may go back to, as the buyer's own signature says. The newest one counts.
CREATE TABLE fleet.refund_addresses (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    chain_id bigint NOT NULL,
    address text NOT NULL,
    signed_at timestamptz NOT NULL,             -- in the text, whole seconds
    y_parity smallint NOT NULL CHECK (y_parity IN (0, 1)),
    r numeric(78, 0) NOT NULL,
    s numeric(78, 0) NOT NULL,
    added_by text NOT NULL CHECK (length(added_by) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX refund_addresses_payment ON fleet.refund_addresses (payment_id, chain_id, created_at DESC);

-- What a refund is for (a dispute's opening, a surplus, an operator's request) and the account that its amount comes from,
-- to which it returns when it is voided. A release is paid from what is held.
ALTER TABLE fleet.release_instructions
    ADD COLUMN source text NOT NULL DEFAULT 'held' CHECK (source IN ('held', 'disputed', 'suspense')),
    ADD COLUMN cause text CHECK (length(cause) BETWEEN 1 AND 200),
    -- What the house keeps of a release, beside its amount (L7).
    ADD COLUMN platform_fee numeric(38, 18) NOT NULL DEFAULT 0 CHECK (platform_fee >= 0),
    ADD COLUMN provider_fee numeric(38, 18) NOT NULL DEFAULT 0 CHECK (provider_fee >= 0);
