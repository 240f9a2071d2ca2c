-- Several payments of one recipient, token, chain and treasury are paid by one transfer (R23). Each payment keeps its own
-- instruction, with its own entries, keys and epoch; the group is a further row, without a payment, that alone is approved,
-- handed out and signed. Its members have its state, and nothing else of theirs is looked at.
ALTER TABLE fleet.release_instructions
    ALTER COLUMN payment_id DROP NOT NULL,
    ADD COLUMN group_id uuid REFERENCES fleet.release_instructions (id),
    ADD COLUMN alone boolean NOT NULL DEFAULT false,    -- it stopped a group once: it is not grouped again
    ADD CONSTRAINT release_instructions_no_group_in_a_group CHECK (payment_id IS NOT NULL OR group_id IS NULL),
    -- What the house kept of releases is paid out by instructions of their own kind (L7), from those accounts.
    DROP CONSTRAINT release_instructions_purpose_check,
    ADD CONSTRAINT release_instructions_purpose_check
        CHECK (purpose IN ('release', 'refund', 'drain', 'platform_fee', 'provider_fee')),
    DROP CONSTRAINT release_instructions_source_check,
    ADD CONSTRAINT release_instructions_source_check
        CHECK (source IN ('held', 'disputed', 'suspense', 'platform_fees', 'provider_fees')),
    ADD CONSTRAINT release_instructions_fees_from_fees
        CHECK ((purpose IN ('platform_fee', 'provider_fee')) = (source IN ('platform_fees', 'provider_fees'))
               AND (source NOT IN ('platform_fees', 'provider_fees') OR source = purpose || 's')),
    DROP CONSTRAINT release_instructions_check,
    ADD CONSTRAINT release_instructions_bytes_once_handed_out
        CHECK (state IN ('drafted', 'awaiting_approval', 'ready', 'expired', 'failed') OR group_id IS NOT NULL
               OR (unsigned_bytes IS NOT NULL AND nonce IS NOT NULL)),
    ADD CONSTRAINT release_instructions_members_have_no_bytes
        CHECK (group_id IS NULL OR num_nonnulls(unsigned_bytes, nonce, signing_hash, intent_hash) = 0);
CREATE INDEX release_instructions_members ON fleet.release_instructions (group_id) WHERE group_id IS NOT NULL;
-- R1: one instruction handed out per (chain, treasury); members are handed out with theirs.
DROP INDEX fleet.release_instructions_one_handed_out;
CREATE UNIQUE INDEX release_instructions_one_handed_out ON fleet.release_instructions (chain_id, treasury)
    WHERE state = 'handed_out' AND group_id IS NULL;

-- A group is its members and nothing else, whoever writes: the same everything, and amounts that add up. One without
-- members was taken apart, and can only have expired.
CREATE FUNCTION fleet.require_whole_group() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_id uuid;
    v_group record;
    v_members record;
BEGIN
    FOREACH v_id IN ARRAY array_remove(ARRAY[
        NEW.group_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.group_id END, CASE WHEN NEW.payment_id IS NULL THEN NEW.id END], NULL)
    LOOP
        SELECT i.* INTO v_group FROM fleet.release_instructions i WHERE i.id = v_id;
        SELECT count(*) AS many, sum(m.amount) AS amount, sum(m.amount_units) AS units, bool_and(
            (m.purpose, m.chain_id, m.treasury, m.token, m.recipient, m.state, m.source)
            = (v_group.purpose, v_group.chain_id, v_group.treasury, v_group.token, v_group.recipient, v_group.state, v_group.source)) AS alike
        INTO v_members FROM fleet.release_instructions m WHERE m.group_id = v_id;
        IF v_group.payment_id IS NOT NULL
           OR (v_members.many = 0 AND v_group.state <> 'expired')
           OR (v_members.many > 0 AND (NOT v_members.alike OR (v_members.amount, v_members.units)
                                       IS DISTINCT FROM (v_group.amount, v_group.amount_units))) THEN
            RAISE EXCEPTION 'group % is % of % in state %; its % members have % in all, or are of another kind', v_id,
                v_group.purpose, v_group.amount_units, v_group.state, v_members.many, v_members.units
                USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'release_instructions',
                      CONSTRAINT = 'release_instructions_whole_group';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER release_instructions_whole_group AFTER INSERT OR UPDATE ON fleet.release_instructions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.group_id IS NOT NULL OR NEW.payment_id IS NULL)
    EXECUTE FUNCTION fleet.require_whole_group();
ALTER TABLE fleet.release_instructions ENABLE ALWAYS TRIGGER release_instructions_whole_group;
-- One that leaves its group.
CREATE CONSTRAINT TRIGGER release_instructions_left_group AFTER UPDATE ON fleet.release_instructions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.group_id IS NOT NULL AND NEW.group_id IS NULL)
    EXECUTE FUNCTION fleet.require_whole_group();
ALTER TABLE fleet.release_instructions ENABLE ALWAYS TRIGGER release_instructions_left_group;

-- Where the house's fees are paid to: an entry of its own role, signed like every other (R8).
ALTER TABLE fleet.address_book
    DROP CONSTRAINT address_book_role_check,
    ADD CONSTRAINT address_book_role_check CHECK (role IN ('payee', 'gas_payer', 'fee_payee')),
    DROP CONSTRAINT address_book_check1,
    ADD CONSTRAINT address_book_owner CHECK (user_id IS NOT NULL OR role IN ('gas_payer', 'fee_payee'));
