-- Watching block by block (L12 to L14): the hashes of the watched window, whose word each block is, and one writer.

-- What the watcher has scanned: the last max(4 x threshold, 256) blocks, and those of facts that are watched longer.
CREATE TABLE fleet.chain_blocks (
    chain_id bigint NOT NULL,
    number bigint NOT NULL,
    hash text NOT NULL,
    parent_hash text NOT NULL,
    mined_at timestamptz NOT NULL,              -- as its header says
    agreed boolean NOT NULL,                    -- a quorum of nodes shows this hash (L13)
    PRIMARY KEY (chain_id, number)
);

ALTER TABLE fleet.chain_cursors
    -- H of L13: the newest scanned block that a quorum agrees on. NULL until there was one.
    ADD COLUMN agreed_number bigint,
    -- Drawn anew by each watcher that takes the chain: a stalled one that wakes up can write nothing.
    ADD COLUMN fence bigint NOT NULL DEFAULT 0,
    ADD COLUMN treasury_balance_wei numeric(78, 0),
    ADD COLUMN treasury_nonce bigint;
UPDATE fleet.chain_cursors SET agreed_number = head_number;

-- Each configured node as the watcher last judged it; url without what may be a key.
CREATE TABLE fleet.chain_nodes (
    chain_id bigint NOT NULL,
    place smallint NOT NULL,                    -- in the chains file, from 0
    url text NOT NULL,
    state text NOT NULL CHECK (state IN ('healthy', 'behind', 'aside')),
    reason text,
    head_number bigint,
    since timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, place)
);
