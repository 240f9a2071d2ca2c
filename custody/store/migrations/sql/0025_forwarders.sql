-- Deposit accounts without a key (R20): addresses are CREATE2 forwarders of the treasury's own contracts, and a Safe's alone.

ALTER TABLE fleet.deposit_accounts
    ADD COLUMN kind text NOT NULL DEFAULT 'hd_account' CHECK (kind IN ('hd_account', 'create2_forwarder')),
    ALTER COLUMN xpub DROP NOT NULL,
    ADD CONSTRAINT deposit_accounts_xpub CHECK ((kind = 'hd_account') = (xpub IS NOT NULL));

-- Whose forwarders an account's addresses are on each chain: said once, as they can pay nobody else.
CREATE TABLE fleet.forwarder_treasuries (
    account_id uuid NOT NULL REFERENCES fleet.deposit_accounts (id),
    chain_id bigint NOT NULL,
    treasury text NOT NULL CHECK (treasury ~ '^0x[0-9a-fA-F]{40}$'),
    PRIMARY KEY (account_id, chain_id)
);
