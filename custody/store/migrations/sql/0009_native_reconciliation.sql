-- Native coin that only a balance tells of (L8): log_index -2. A top-level transfer, which has no log either, has -1.
COMMENT ON COLUMN fleet.chain_facts.log_index IS
    'the log''s place in its block; -1: a top-level transfer of native coin; -2: reconciled by the balance at the block, '
    'transaction_hash is native:{chain}:{address}:{block hash} then';
CREATE INDEX chain_facts_reconciled ON fleet.chain_facts (chain_id, block_number) WHERE live AND log_index = -2;
