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

-- The one watcher of each chain: a token drawn anew by whoever takes it. A stalled one that wakes up can write nothing.
CREATE TABLE fleet.chain_watchers (
    chain_id bigint PRIMARY KEY,
    fence bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE fleet.chain_cursors
    -- H of L13: the newest scanned block that a quorum agrees on. NULL until there was one. Never above head_number.
    ADD COLUMN agreed_number bigint,
    ADD COLUMN finalized_number bigint,         -- the block that nodes tag as the chain's finality_tag says, if set
    ADD COLUMN treasury_balance_wei numeric(78, 0),
    ADD COLUMN treasury_nonce bigint,
    ADD COLUMN waiting_reason text,             -- why the watcher does not go on by itself: no node, no quorum, a split
    ADD COLUMN waiting_since timestamptz;
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
