-- Schema fleet: what only the fleet owns (design §3). Later revisions touch schema public only to add.

CREATE SCHEMA fleet;

CREATE TABLE fleet.tokens (
    chain_id bigint NOT NULL,
    token text NOT NULL,                        -- checksum address, or 'native'
    symbol text NOT NULL,
    decimals smallint NOT NULL CHECK (decimals BETWEEN 0 AND 18),
    PRIMARY KEY (chain_id, token)
);

-- Inbox -----------------------------------------------------------------------------------------------------------

CREATE TABLE fleet.webhook_deliveries (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    provider text NOT NULL,
    delivery_key text NOT NULL,                 -- the sender's delivery id, or body:<sha256> without one
    body_sha256 bytea NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    is_test boolean NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'received' CHECK (state IN (
        'received', 'linked', 'test', 'kept', 'unknown_event', 'unknown_request', 'no_transaction',
        'malformed', 'mismatched', 'dead')),
    reason text,
    event text,
    payment_id uuid REFERENCES public.payments (id),
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    last_error text,
    processed_at timestamptz,
    UNIQUE (provider, delivery_key, body_sha256)
);
CREATE INDEX webhook_deliveries_due ON fleet.webhook_deliveries (run_after, id) WHERE state = 'received';
CREATE INDEX webhook_deliveries_payment ON fleet.webhook_deliveries (payment_id, received_at);

-- Outbox: doorbells (deleted once rung) and mirror work (deleted once the document is in Mongo) ---------------------

CREATE TABLE fleet.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL CHECK (queue IN ('webhooks', 'confirmations', 'sweeps', 'releases', 'mirror', 'housekeeping')),
    collection text,                            -- mirror work only
    document_id uuid,                           -- mirror work only: the row whose present state is written
    created_at timestamptz NOT NULL DEFAULT now(),
    rung_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    last_error text,
    CHECK ((queue = 'mirror') = (collection IS NOT NULL AND document_id IS NOT NULL))
);
CREATE INDEX outbox_unrung ON fleet.outbox (id) WHERE rung_at IS NULL;
CREATE INDEX outbox_mirror_due ON fleet.outbox (run_after, id) WHERE queue = 'mirror';

-- A mirror draws a version after it has claimed its rows and before it reads their state: a write of a lower version
-- never replaces one of a higher (L17).
CREATE SEQUENCE fleet.mirror_versions;

CREATE TABLE fleet.schedule_runs (
    name text NOT NULL,
    slot bigint NOT NULL,
    ran_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, slot)
);

CREATE TABLE fleet.dead_work (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    queue text NOT NULL,
    subject_kind text NOT NULL,
    subject_id text NOT NULL,
    payment_id uuid REFERENCES public.payments (id),
    reason text NOT NULL,
    unblocks text NOT NULL,                     -- what an operator can do about it
    attempts integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolved_by text,
    UNIQUE (queue, subject_kind, subject_id)
);

-- Addresses ---------------------------------------------------------------------------------------------------------

CREATE TABLE fleet.deposit_accounts (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    xpub_fingerprint text NOT NULL UNIQUE,
    xpub text NOT NULL,
    base_path text NOT NULL DEFAULT 'm/44''/60''/0''',
    next_index bigint NOT NULL DEFAULT 0 CHECK (next_index >= 0),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'retired', 'compromised')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX deposit_accounts_one_active ON fleet.deposit_accounts (state) WHERE state = 'active';

ALTER TABLE public.derived_destinations
    ADD COLUMN deposit_account_id uuid REFERENCES fleet.deposit_accounts (id),
    ADD COLUMN quarantine_reason text,
    ADD CONSTRAINT derived_destinations_quarantine_reason
        CHECK (status <> 'quarantined' OR quarantine_reason IS NOT NULL) NOT VALID;
CREATE UNIQUE INDEX derived_destinations_chain_address ON public.derived_destinations (chain_id, address);

ALTER TABLE public.derived_destination_sweeps
    ADD CONSTRAINT derived_destination_sweeps_log UNIQUE (chain_id, transaction_hash, log_index);

ALTER TABLE public.config_setting_history ADD COLUMN reason text, ADD COLUMN changed_by_label text;

-- Where a payment's money is expected: every address and reference ever issued (L12).
CREATE TABLE fleet.payment_routes (
    payment_id uuid PRIMARY KEY REFERENCES public.payments (id),
    chain_id bigint NOT NULL,
    token text NOT NULL,
    destination_id uuid NOT NULL REFERENCES public.derived_destinations (id),
    expected numeric(38, 18) NOT NULL CHECK (expected > 0),
    request_id text,
    payment_reference text,                     -- 0x + 16 hex digits, as Request Network returns it
    reference_topic text UNIQUE,                -- keccak256 of its 8 bytes, as the proxy's log carries it
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (chain_id, token) REFERENCES fleet.tokens (chain_id, token)
);
CREATE INDEX payment_routes_destination ON fleet.payment_routes (destination_id);
CREATE UNIQUE INDEX payment_routes_request_id ON fleet.payment_routes (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX payment_routes_payment_reference ON fleet.payment_routes (payment_reference);

CREATE TABLE fleet.house_accounts (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    chain_id bigint NOT NULL,
    address text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('gas_payer', 'treasury')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, address)
);

-- Append-only; issue of signatures by k approvers follows with the approver registry (R8).
CREATE TABLE fleet.address_book (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES public.users (id),
    chain_id bigint NOT NULL,
    address text NOT NULL,
    label text NOT NULL,
    added_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX address_book_user ON fleet.address_book (user_id, chain_id, created_at DESC);

-- Chain -------------------------------------------------------------------------------------------------------------

CREATE TABLE fleet.chain_cursors (
    chain_id bigint PRIMARY KEY,
    head_number bigint NOT NULL,
    head_hash text NOT NULL,
    head_timestamp timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    paused_reason text,
    paused_at timestamptz
);

CREATE TABLE fleet.chain_looks (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    chain_id bigint NOT NULL,
    transaction_hash text NOT NULL,
    payment_id uuid REFERENCES public.payments (id),
    requested_by text NOT NULL,
    state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'seen', 'nothing_of_ours', 'missing')),
    outcome text,
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, transaction_hash)
);
CREATE INDEX chain_looks_due ON fleet.chain_looks (run_after, id) WHERE state = 'due';

-- L1: a fact can die and return; L2: the fact is the token's Transfer log.
CREATE TABLE fleet.chain_facts (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    chain_id bigint NOT NULL,
    block_number bigint NOT NULL,
    block_hash text NOT NULL,
    transaction_hash text NOT NULL,
    log_index integer NOT NULL,
    tx_ordinal integer NOT NULL,                -- the log's place inside its transaction
    token text NOT NULL,
    sender text NOT NULL,
    recipient text NOT NULL,
    amount_units numeric(78, 0) NOT NULL CHECK (amount_units > 0),
    direction text NOT NULL CHECK (direction IN ('inbound', 'sweep', 'outbound')),
    reference_topic text,
    payment_id uuid REFERENCES public.payments (id),
    destination_id uuid REFERENCES public.derived_destinations (id),
    incarnation integer NOT NULL DEFAULT 1,
    live boolean NOT NULL DEFAULT true,
    judged_at timestamptz,                      -- when it was deep enough and split (L7)
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, block_hash, transaction_hash, log_index, incarnation),
    FOREIGN KEY (chain_id, token) REFERENCES fleet.tokens (chain_id, token)
);
CREATE UNIQUE INDEX chain_facts_live ON fleet.chain_facts (chain_id, transaction_hash, tx_ordinal) WHERE live;
CREATE INDEX chain_facts_waiting ON fleet.chain_facts (chain_id, block_number) WHERE live AND judged_at IS NULL;
CREATE INDEX chain_facts_transaction ON fleet.chain_facts (chain_id, transaction_hash);
CREATE INDEX chain_facts_payment ON fleet.chain_facts (payment_id);
CREATE INDEX chain_facts_destination ON fleet.chain_facts (destination_id) WHERE destination_id IS NOT NULL;

CREATE TABLE fleet.nonce_lanes (
    chain_id bigint NOT NULL,
    address text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('gas_payer', 'destination', 'treasury')),
    next_nonce bigint NOT NULL CHECK (next_nonce >= 0),
    PRIMARY KEY (chain_id, address)
);

-- One row a nonce; every hash of the nonce is kept.
CREATE TABLE fleet.chain_transactions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    chain_id bigint NOT NULL,
    sender text NOT NULL,
    nonce bigint NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('top_up', 'sweep', 'release', 'cancel')),
    subject_id uuid NOT NULL,                   -- the sweep job or the release instruction
    recipient text NOT NULL,
    value_wei numeric(78, 0) NOT NULL CHECK (value_wei >= 0),
    data bytea NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'signed', 'broadcast', 'final', 'failed')),
    signed_bytes bytea,
    transaction_hash text,
    hashes text[] NOT NULL DEFAULT '{}',
    block_number bigint,
    block_hash text,
    succeeded boolean,                          -- receipt status of the mined transaction
    fee_wei numeric(78, 0),                     -- gasUsed x effectiveGasPrice (+ L1 fee)
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    broadcast_at timestamptz,
    final_at timestamptz,
    UNIQUE (chain_id, sender, nonce),
    FOREIGN KEY (chain_id, sender) REFERENCES fleet.nonce_lanes (chain_id, address),
    CHECK (state = 'intent' OR state = 'failed' OR (signed_bytes IS NOT NULL AND transaction_hash IS NOT NULL))
);
CREATE INDEX chain_transactions_open ON fleet.chain_transactions (chain_id, sender, nonce)
    WHERE state IN ('intent', 'signed', 'broadcast');
CREATE INDEX chain_transactions_subject ON fleet.chain_transactions (subject_id);

-- Sweeps ------------------------------------------------------------------------------------------------------------

CREATE TABLE fleet.sweep_jobs (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    destination_id uuid NOT NULL REFERENCES public.derived_destinations (id),
    chain_id bigint NOT NULL,
    token text NOT NULL,
    strategy text NOT NULL,
    amount_units numeric(78, 0) NOT NULL CHECK (amount_units > 0),
    treasury text NOT NULL,
    state text NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'funding', 'transferring', 'swept', 'failed')),
    reason text,                                -- why it waits or failed
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    lease_token uuid,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX sweep_jobs_one_open ON fleet.sweep_jobs (destination_id, token)
    WHERE state IN ('planned', 'funding', 'transferring');
CREATE INDEX sweep_jobs_due ON fleet.sweep_jobs (run_after, id) WHERE state IN ('planned', 'funding', 'transferring');

-- Releases ----------------------------------------------------------------------------------------------------------

CREATE TABLE fleet.release_instructions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    purpose text NOT NULL CHECK (purpose IN ('release', 'refund')),
    request_key text NOT NULL DEFAULT 'whole',
    chain_id bigint NOT NULL,
    treasury text NOT NULL,
    token text NOT NULL,
    recipient text NOT NULL,
    amount numeric(38, 18) NOT NULL CHECK (amount > 0),
    amount_units numeric(78, 0) NOT NULL CHECK (amount_units > 0),
    release_epoch bigint NOT NULL,
    state text NOT NULL DEFAULT 'drafted' CHECK (state IN (
        'drafted', 'awaiting_approval', 'ready', 'handed_out', 'signed', 'broadcast', 'final',
        'cancelling', 'cancelled', 'expired', 'failed')),
    held_reason text,                           -- why it waits, in the operator's words
    rejected_reason text,                       -- what the signer said when refusing on the device
    nonce bigint,
    unsigned_bytes bytea,
    signing_hash bytea,
    max_total_fee_wei numeric(78, 0),
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    lease_token uuid,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    handed_out_at timestamptz,
    signed_at timestamptz,
    final_at timestamptz,
    UNIQUE (payment_id, purpose, request_key),
    FOREIGN KEY (chain_id, token) REFERENCES fleet.tokens (chain_id, token),
    CHECK (state IN ('drafted', 'awaiting_approval', 'ready', 'expired', 'failed')
           OR (unsigned_bytes IS NOT NULL AND nonce IS NOT NULL))
);
-- R1: one instruction handed out per (chain, treasury).
CREATE UNIQUE INDEX release_instructions_one_handed_out ON fleet.release_instructions (chain_id, treasury)
    WHERE state = 'handed_out';
CREATE INDEX release_instructions_open ON fleet.release_instructions (run_after, id)
    WHERE state NOT IN ('final', 'cancelled', 'expired', 'failed');

-- What signers hand in; the releases worker verifies it (R9, R19).
CREATE TABLE fleet.signature_submissions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    instruction_id uuid NOT NULL REFERENCES fleet.release_instructions (id),
    kind text NOT NULL CHECK (kind IN ('signature', 'rejection')),
    y_parity smallint CHECK (y_parity IN (0, 1)),
    r numeric(78, 0),
    s numeric(78, 0),
    reason text CHECK (length(reason) <= 500),
    received_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'accepted', 'refused')),
    refused_reason text,
    CHECK ((kind = 'signature') = (y_parity IS NOT NULL AND r IS NOT NULL AND s IS NOT NULL))
);
CREATE INDEX signature_submissions_received ON fleet.signature_submissions (received_at) WHERE state = 'received';
CREATE INDEX signature_submissions_instruction ON fleet.signature_submissions (instruction_id);
