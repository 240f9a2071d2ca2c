-- R22: the house's own coins at a former treasury are moved as well, by a drain of its house book. It pays for no payment
-- and has no members: neither an instruction of a payment nor a group.
ALTER TABLE fleet.release_instructions
    ADD COLUMN house_id uuid REFERENCES fleet.house_accounts (id),
    ADD CONSTRAINT release_instructions_of_the_house
        CHECK (house_id IS NULL OR (payment_id IS NULL AND group_id IS NULL AND purpose = 'drain'));
CREATE UNIQUE INDEX release_instructions_house_key ON fleet.release_instructions (house_id, token, request_key)
    WHERE house_id IS NOT NULL;

-- As in 0019, but that the house's is no group and can be none's.
CREATE OR REPLACE FUNCTION fleet.require_whole_group() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_id uuid;
    v_group record;
    v_members record;
BEGIN
    FOREACH v_id IN ARRAY array_remove(ARRAY[
        NEW.group_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.group_id END,
        CASE WHEN NEW.payment_id IS NULL AND NEW.house_id IS NULL THEN NEW.id END], NULL)
    LOOP
        SELECT i.* INTO v_group FROM fleet.release_instructions i WHERE i.id = v_id;
        SELECT count(*) AS many, sum(m.amount) AS amount, sum(m.amount_units) AS units, bool_and(
            (m.purpose, m.chain_id, m.treasury, m.token, m.recipient, m.state, m.source)
            = (v_group.purpose, v_group.chain_id, v_group.treasury, v_group.token, v_group.recipient, v_group.state, v_group.source)) AS alike
        INTO v_members FROM fleet.release_instructions m WHERE m.group_id = v_id;
        IF num_nonnulls(v_group.payment_id, v_group.house_id) > 0
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
DROP TRIGGER release_instructions_whole_group ON fleet.release_instructions;
CREATE CONSTRAINT TRIGGER release_instructions_whole_group AFTER INSERT OR UPDATE ON fleet.release_instructions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.group_id IS NOT NULL OR (NEW.payment_id IS NULL AND NEW.house_id IS NULL))
    EXECUTE FUNCTION fleet.require_whole_group();
ALTER TABLE fleet.release_instructions ENABLE ALWAYS TRIGGER release_instructions_whole_group;
