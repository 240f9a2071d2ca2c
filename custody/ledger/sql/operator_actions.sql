-- Adjustments by hand (R10): fleet_operator has no other way to post. Errors: FL006, with what to do.

DROP FUNCTION IF EXISTS fleet.refuse_without_signatures(bigint);

-- Distinct persons whose devices signed these very parameters; the releases worker has verified each (R9, R10).
CREATE OR REPLACE FUNCTION fleet.persons_who_signed(p_action_id uuid, p_hash bytea) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT a.person ORDER BY a.person), '{}') FROM fleet.approvals a
    WHERE a.subject_kind = 'operator_action' AND a.subject_id = p_action_id AND a.digest = p_hash AND a.state = 'accepted'
$$;

CREATE OR REPLACE FUNCTION fleet.action_hash(p_kind text, p_parameters jsonb) RETURNS bytea
LANGUAGE sql STABLE AS $$ SELECT sha256(fleet.field_bytes(p_kind, p_parameters::text)) $$;

-- p_parameters: the names of post_entry()'s arguments; the key is made here, from the action.
CREATE OR REPLACE FUNCTION fleet.propose_adjustment(p_parameters jsonb, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_chain_id bigint := (p_parameters ->> 'chain_id')::bigint;
    v_id uuid;
BEGIN
    IF v_chain_id IS NULL THEN
        RAISE EXCEPTION 'an adjustment needs a chain_id' USING ERRCODE = 'FL004';
    END IF;
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('adjust', v_chain_id, p_parameters, fleet.action_hash('adjust', p_parameters), p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Every check of an action's second person: it is open, of these kinds, another one's, and what was shown. Locks it.
-- p_hash: what the second person was shown; anything else was not agreed on.
CREATE OR REPLACE FUNCTION fleet.lock_agreed_action(p_action_id uuid, p_kinds text[], p_hash bytea, p_by text)
RETURNS fleet.operator_actions
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions;
    v_signed text[];
BEGIN
    SELECT * INTO v_action FROM fleet.operator_actions a WHERE a.id = p_action_id FOR UPDATE;
    IF NOT FOUND OR v_action.state <> 'proposed' THEN
        RAISE EXCEPTION 'action % is %; only a proposed one is executed', p_action_id, coalesce(v_action.state, 'unknown')
            USING ERRCODE = 'FL006';
    END IF;
    IF NOT v_action.kind = ANY (p_kinds) THEN
        RAISE EXCEPTION 'action % is of kind %; expected %', p_action_id, v_action.kind, array_to_string(p_kinds, ' or ')
            USING ERRCODE = 'FL006';
    END IF;
    v_signed := fleet.persons_who_signed(p_action_id, v_action.parameter_hash);
    -- Where no money is real two labels are enough, so that people can practise. Of no chain (0): where no other is known.
    IF cardinality(v_signed) < 2 AND (
        v_action.chain_id NOT IN (0, 1337, 31337)
        OR v_action.chain_id = 0 AND (NOT EXISTS (SELECT FROM fleet.chain_cursors) OR EXISTS (
            SELECT FROM (SELECT c.chain_id FROM fleet.chain_cursors c UNION ALL SELECT t.chain_id FROM fleet.tokens t
                         UNION ALL SELECT h.chain_id FROM fleet.house_accounts h) known
            WHERE known.chain_id NOT IN (1337, 31337)))) THEN
        RAISE EXCEPTION 'action % needs the signatures of two persons, % signed: each runs fleet signer approve (R10)',
            p_action_id, CASE WHEN v_signed = '{}' THEN 'nobody' ELSE array_to_string(v_signed, ', ') END
            USING ERRCODE = 'FL006';
    END IF;
    IF v_action.proposed_by = p_by THEN
        RAISE EXCEPTION 'action % was proposed by %: another person executes it', p_action_id, p_by USING ERRCODE = 'FL006';
    END IF;
    IF p_hash IS DISTINCT FROM v_action.parameter_hash
       OR v_action.parameter_hash <> fleet.action_hash(v_action.kind, v_action.parameters) THEN
        RAISE EXCEPTION 'action % has other parameters than were shown: look at it again', p_action_id USING ERRCODE = 'FL006';
    END IF;
    RETURN v_action;
END $$;

CREATE OR REPLACE FUNCTION fleet.post_of_action(
    p_action fleet.operator_actions, p_parameters jsonb, p_key text, p_by text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_posted record;
BEGIN
    -- An opening says what was there before the fleet: once the book has moved, money appears by facts alone.
    IF p_parameters ->> 'reason' = 'opening' AND EXISTS (
        SELECT FROM public.funds_ledger_entries e
        WHERE e.book_id = (p_parameters ->> 'book_id')::uuid AND e.reason NOT IN ('opening', 'correction')) THEN
        RAISE EXCEPTION 'book % has entries already: it is opened before anything else is posted to it',
            p_parameters ->> 'book_id' USING ERRCODE = 'FL006';
    END IF;
    SELECT p.* INTO v_posted FROM jsonb_to_record(p_parameters) AS a(
            book_kind text, book_id uuid, chain_id bigint, token text, reason text, debit text, credit text, amount numeric,
            debit_address text, credit_address text, reverses_entry_id uuid),
        LATERAL fleet.post_entry(
            a.book_kind, a.book_id, a.chain_id, a.token, 'adjustment', a.reason, a.debit, a.credit, a.amount,
            p_key, a.debit_address, a.credit_address, NULL, NULL, a.reverses_entry_id,
            jsonb_build_object('action', p_action.id, 'proposed_by', p_action.proposed_by, 'executed_by', p_by,
                               'signed_by', to_jsonb(fleet.persons_who_signed(p_action.id, p_action.parameter_hash)),
                               'reason', p_action.reason, 'parameter_hash', encode(p_action.parameter_hash, 'hex'))) AS p;
    RETURN v_posted.entry_id;
END $$;

-- What a house covers of a payment's loss has a second entry in the house's book ("house" in the parameters, L5): both
-- or none. Returns the first one's id.
CREATE OR REPLACE FUNCTION fleet.execute_adjustment(p_action_id uuid, p_hash bytea, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['adjust'], p_hash, p_by);
    v_parameters jsonb := v_action.parameters;
    v_house jsonb := v_action.parameters -> 'house';
    v_covers_payment boolean := v_parameters ->> 'reason' = 'covered' AND v_parameters ->> 'book_kind' = 'payment';
    v_entry_id uuid;
BEGIN
    IF v_covers_payment IS DISTINCT FROM (v_house IS NOT NULL)
       OR v_house IS NOT NULL AND (
            v_house ->> 'debit', v_house ->> 'credit', v_house ->> 'reason', v_house ->> 'book_kind', v_house ->> 'chain_id',
            v_house ->> 'token', v_house ->> 'amount', v_house ->> 'credit_address')
          IS DISTINCT FROM ('loss', 'treasury_house', 'covered', 'house', v_parameters ->> 'chain_id',
                            v_parameters ->> 'token', v_parameters ->> 'amount', v_parameters ->> 'debit_address')
       OR v_house IS NULL AND v_parameters ->> 'debit' = 'loss' THEN
        RAISE EXCEPTION 'action % covers a loss on one side only: the payment and the house move together, by the same amount',
            p_action_id USING ERRCODE = 'FL006';
    END IF;
    v_entry_id := fleet.post_of_action(v_action, v_action.parameters, 'action:' || p_action_id, p_by);
    IF v_house IS NOT NULL THEN
        PERFORM fleet.post_of_action(v_action, v_house, 'action:' || p_action_id || ':house', p_by);
    END IF;
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp(),
        entry_id = v_entry_id
    WHERE id = p_action_id;
    RETURN v_entry_id;
END $$;

CREATE OR REPLACE FUNCTION fleet.withdraw_action(p_action_id uuid, p_by text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE fleet.operator_actions SET state = 'withdrawn', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id AND state = 'proposed';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'action % is not open', p_action_id USING ERRCODE = 'FL006';
    END IF;
END $$;
