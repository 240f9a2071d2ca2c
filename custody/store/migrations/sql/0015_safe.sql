-- A Safe as treasury (R16): its owners sign a SafeTx, and a gas key of the releases worker executes it.

ALTER TABLE fleet.release_instructions
    ADD COLUMN unsigned_kind text NOT NULL DEFAULT 'transaction'
        CHECK (unsigned_kind IN ('transaction', 'safe_transaction')),   -- what unsigned_bytes are; nonce is the Safe's then
    ADD COLUMN safe_block bigint,               -- the block that the Safe was read at when its bytes were handed out,
    ADD COLUMN safe_block_nonce bigint,         -- and the Safe's nonce after it: what it executed is looked for from here
    ADD COLUMN rejection_hash bytea CHECK (length(rejection_hash) = 32),    -- of the SafeTx that spends the nonce on nothing
    ADD CHECK (CASE unsigned_kind
        WHEN 'safe_transaction' THEN num_nulls(safe_block, safe_block_nonce, rejection_hash, unsigned_bytes) = 0
        ELSE num_nonnulls(safe_block, safe_block_nonce, rejection_hash) = 0 END);
-- R1: one intent a nonce of a Safe.
CREATE UNIQUE INDEX release_instructions_safe_nonce ON fleet.release_instructions (chain_id, treasury, nonce)
    WHERE unsigned_kind = 'safe_transaction';

-- Whose signature it was and over which hash; each owner counts once (R16).
ALTER TABLE fleet.signature_submissions
    ADD COLUMN signer text,
    ADD COLUMN digest bytea CHECK (length(digest) = 32),
    ADD CHECK ((signer IS NULL) = (digest IS NULL)),
    ADD CHECK (signer IS NULL OR state = 'accepted');
CREATE UNIQUE INDEX signature_submissions_one_an_owner ON fleet.signature_submissions (instruction_id, digest, signer)
    WHERE signer IS NOT NULL;

-- The release payer's coins have a book of their own, apart from the sweeps' gas payer.
ALTER TABLE fleet.house_accounts
    DROP CONSTRAINT house_accounts_kind_check,
    ADD CONSTRAINT house_accounts_kind_check CHECK (kind IN ('gas_payer', 'treasury', 'release_payer'));
ALTER TABLE fleet.nonce_lanes
    DROP CONSTRAINT nonce_lanes_kind_check,
    ADD CONSTRAINT nonce_lanes_kind_check CHECK (kind IN ('gas_payer', 'destination', 'treasury', 'release_payer'));
