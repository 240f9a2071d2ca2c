-- Approvals (R3, R18), the versions of signed files that were accepted (R8), and an address book whose entries are
-- signed. Who may approve is the genesis' to say; no table here makes anybody an approver.

CREATE TABLE fleet.accepted_documents (
    kind text NOT NULL CHECK (kind IN ('genesis', 'policy')),
    version integer NOT NULL CHECK (version > 0),
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),   -- loosening is counted from here
    PRIMARY KEY (kind, version)
);

-- What approvers handed in over what they were shown; the releases worker says which count (R9).
CREATE TABLE fleet.approvals (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    subject_kind text NOT NULL CHECK (subject_kind IN ('release_instruction', 'address_book_entry', 'operator_action')),
    subject_id uuid NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),      -- of the intent, the entry or the parameters that were signed
    person text NOT NULL CHECK (length(person) BETWEEN 1 AND 32),
    approver text NOT NULL CHECK (approver ~ '^0x[0-9a-fA-F]{40}$'),
    signature bytea NOT NULL CHECK (length(signature) = 65),
    state text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'accepted', 'refused')),
    refused_reason text,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- One of a person for one digest; what was refused does not keep a person from approving.
CREATE UNIQUE INDEX approvals_one_a_person ON fleet.approvals (subject_kind, subject_id, digest, person)
    WHERE state <> 'refused';
CREATE INDEX approvals_received ON fleet.approvals (received_at, id) WHERE state = 'received';
CREATE INDEX approvals_subject ON fleet.approvals (subject_kind, subject_id);

-- Each judgement of the policy that differs from the one before it, with the policy's hash (R8).
CREATE TABLE fleet.policy_decisions (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    subject_kind text NOT NULL CHECK (subject_kind IN ('release_instruction', 'sweep_job', 'operator_action')),
    subject_id uuid NOT NULL,
    moment text NOT NULL CHECK (moment IN ('approval', 'hand_out', 'broadcast')),
    outcome text NOT NULL CHECK (outcome IN ('allowed', 'needs_approvals', 'denied')),
    rule text NOT NULL,
    sentence text NOT NULL,
    approvals_required integer NOT NULL,
    approved_by text[] NOT NULL,
    policy_version integer NOT NULL,
    policy_hash text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX policy_decisions_subject ON fleet.policy_decisions (subject_kind, subject_id, id DESC);

-- Entries from before have no number: nothing is paid to them once approvals are required.
ALTER TABLE fleet.address_book
    ALTER COLUMN user_id DROP NOT NULL,
    ADD COLUMN number integer UNIQUE CHECK (number > 0),
    ADD COLUMN environment text,
    ADD COLUMN previous text CHECK (previous ~ '^[0-9a-f]{64}$'),
    ADD COLUMN hash text UNIQUE CHECK (hash ~ '^[0-9a-f]{64}$'),
    ADD COLUMN action text CHECK (action IN ('add', 'remove')),
    ADD COLUMN role text CHECK (role IN ('payee', 'gas_payer')),
    ADD COLUMN owner text,
    ADD COLUMN added_at timestamptz,
    ADD CHECK (num_nonnulls(number, environment, previous, hash, action, role, owner, added_at) IN (0, 8)),
    ADD CHECK (user_id IS NOT NULL OR role = 'gas_payer');

-- What approvers agree to (R18, R19): set when an instruction begins to wait for them.
ALTER TABLE fleet.release_instructions
    ADD COLUMN fee_ceiling_wei numeric(78, 0) CHECK (fee_ceiling_wei > 0),
    ADD COLUMN environment text,
    ADD COLUMN policy_version integer,
    ADD COLUMN policy_hash text,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN intent_hash bytea CHECK (length(intent_hash) = 32),
    ADD CHECK (num_nonnulls(fee_ceiling_wei, environment, policy_version, policy_hash, expires_at, intent_hash) IN (0, 6));
