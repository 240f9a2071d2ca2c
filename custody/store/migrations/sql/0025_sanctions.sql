-- Lists of sanctioned addresses as they were loaded (R13). Each judgement keeps the version and hash it was made by.

CREATE TABLE fleet.sanctions_lists (
    version integer PRIMARY KEY CHECK (version >= 1),
    hash bytea NOT NULL CHECK (length(hash) = 32),  -- fleet.sanctions_hash() of its addresses
    source text NOT NULL CHECK (length(source) BETWEEN 1 AND 200),
    addresses integer NOT NULL CHECK (addresses >= 1),
    loaded_by text NOT NULL CHECK (length(loaded_by) BETWEEN 1 AND 100),
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE fleet.sanctioned_addresses (
    address text PRIMARY KEY CHECK (address ~ '^0x[0-9a-f]{40}$'),
    since_version integer NOT NULL REFERENCES fleet.sanctions_lists (version)
);

-- What two persons took off the lists, on one chain (R10).
CREATE TABLE fleet.sanctions_delisted (
    chain_id bigint NOT NULL,
    address text NOT NULL REFERENCES fleet.sanctioned_addresses (address),
    action_id uuid NOT NULL REFERENCES fleet.operator_actions (id),
    delisted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (chain_id, address)
);
