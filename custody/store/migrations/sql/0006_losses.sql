-- Losses (L5), what leaves the treasury without us (R5), and the operator's way on after a pause (L14, R10).

-- L2: the overdraft that stands for a fact's coins is part of its sum.
DROP TRIGGER funds_ledger_entries_fact_sum ON public.funds_ledger_entries;
CREATE CONSTRAINT TRIGGER funds_ledger_entries_fact_sum AFTER INSERT ON public.funds_ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.fact_id IS NOT NULL AND ('destination' IN (NEW.debit, NEW.credit) OR 'overdraft' IN (NEW.debit, NEW.credit)))
    EXECUTE FUNCTION fleet.require_fact_sum();
ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_fact_sum;

-- One log may be two facts: out of the treasury without us, and into a deposit address.
ALTER TABLE fleet.chain_facts DROP CONSTRAINT chain_facts_chain_id_block_hash_transaction_hash_log_index__key;
ALTER TABLE fleet.chain_facts ADD CONSTRAINT chain_facts_place
    UNIQUE (chain_id, block_hash, transaction_hash, log_index, direction, incarnation);
DROP INDEX fleet.chain_facts_live;
CREATE UNIQUE INDEX chain_facts_live ON fleet.chain_facts (chain_id, transaction_hash, tx_ordinal, direction) WHERE live;
CREATE INDEX chain_facts_outflows ON fleet.chain_facts (chain_id, block_number)
    WHERE live AND direction = 'outbound' AND payment_id IS NULL;

-- Going on after a pause is an action of two persons that posts nothing.
ALTER TABLE fleet.operator_actions
    DROP CONSTRAINT operator_actions_kind_check,
    DROP CONSTRAINT operator_actions_check1,
    ADD CONSTRAINT operator_actions_kind CHECK (kind IN ('adjust', 'go_on')),
    ADD CONSTRAINT operator_actions_entry CHECK ((state = 'executed' AND kind = 'adjust') = (entry_id IS NOT NULL));

CREATE TRIGGER chain_cursors_go_on BEFORE UPDATE ON fleet.chain_cursors FOR EACH ROW
    WHEN (OLD.paused_reason IS NOT NULL AND (OLD.paused_reason, OLD.paused_at) IS DISTINCT FROM (NEW.paused_reason, NEW.paused_at))
    EXECUTE FUNCTION fleet.refuse_going_on();
ALTER TABLE fleet.chain_cursors ENABLE ALWAYS TRIGGER chain_cursors_go_on;
