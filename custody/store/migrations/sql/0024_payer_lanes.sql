-- Gas payers' nonce lanes (L15, R16): one sender a lane at a time, every signature of a nonce, and what the chain shows.

ALTER TABLE fleet.nonce_lanes
    ADD COLUMN fence bigint NOT NULL DEFAULT 0,             -- rises with each sender: one that was thought dead writes nothing
    ADD COLUMN lease_until timestamptz,                     -- until then nobody else may send from it
    ADD COLUMN chain_nonce bigint,                          -- transactions of the address on the chain, when last looked at,
    ADD COLUMN balance_wei numeric(78, 0),                  -- its coins then,
    ADD COLUMN seen_block bigint,                           -- at this block,
    ADD COLUMN seen_at timestamptz,                         -- and when
    ADD COLUMN floor_wei numeric(78, 0),                    -- below it an operator is told
    ADD COLUMN suspect_since bigint,                        -- block from which on a nonce is spent by no hash of ours
    ADD COLUMN frozen_reason text,                          -- its key was used elsewhere: nothing is sent until people looked
    ADD COLUMN frozen_at timestamptz,
    ADD COLUMN foreign_below bigint NOT NULL DEFAULT 0,     -- nonces below it may have been spent elsewhere, an operator says
    ADD CHECK ((frozen_reason IS NULL) = (frozen_at IS NULL));

ALTER TABLE fleet.chain_transactions
    ADD COLUMN cancel_reason text,                          -- why its nonce is to be spent on nothing
    ADD COLUMN sent_block bigint;                           -- the head when a node first took its newest signature

-- One nonce has one intent: the intent's own bytes, the same with higher fees, or the cancel (R1). The mined one decides.
CREATE TABLE fleet.nonce_signatures (
    transaction_id uuid NOT NULL REFERENCES fleet.chain_transactions (id),
    place integer NOT NULL CHECK (place >= 0),
    kind text NOT NULL CHECK (kind IN ('intent', 'bump', 'cancel')),
    signed_bytes bytea NOT NULL,
    transaction_hash text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (transaction_id, place)
);
