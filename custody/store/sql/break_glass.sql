-- Break-glass (R15): proposed by one person, signed by two on their devices, open by itself 10 minutes later and once its
-- alarm was heard outside, vetoed by any one guard. The rules are custody/policy/break_glass.py's; here it is proposed.

-- At most a tenth of what the books have of the token in the treasury; the persons who sign see the amount.
CREATE OR REPLACE FUNCTION fleet.propose_break_glass(
    p_chain_id bigint, p_token text, p_minutes integer, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_decimals smallint := (SELECT t.decimals FROM fleet.tokens t WHERE t.chain_id = p_chain_id AND t.token = p_token);
    v_maximum numeric;
    v_other record;
    v_parameters jsonb;
    v_id uuid;
BEGIN
    -- One proposal at a time, so that two at once do not both find no other.
    PERFORM pg_advisory_xact_lock(hashtext('fleet.break_glass'));
    IF v_decimals IS NULL THEN
        RAISE EXCEPTION 'chain % has no token %', p_chain_id, p_token USING ERRCODE = 'FL006';
    END IF;
    IF p_minutes IS NULL OR p_minutes NOT BETWEEN 15 AND 60 THEN
        RAISE EXCEPTION 'minutes: expected 15 to 60; it opens 10 minutes after the second signature' USING ERRCODE = 'FL006';
    END IF;
    SELECT a.id, a.parameters ->> 'expires_at' AS expires_at INTO v_other FROM fleet.operator_actions a
    WHERE a.kind = 'break_glass' AND a.state = 'proposed' AND a.proposed_at > v_now - interval '26 hours'
      AND ((a.parameters ->> 'expires_at')::timestamptz > v_now
           -- One that two persons signed was open, unless its alarm was never heard.
           OR (a.parameters ->> 'expires_at')::timestamptz > v_now - interval '24 hours'
              AND cardinality(fleet.persons_who_signed(a.id, a.parameter_hash)) >= 2
              AND EXISTS (SELECT FROM fleet.alarms w WHERE w.kind = 'break_glass' AND w.subject_id = a.id::text
                          AND w.acknowledged_at IS NOT NULL))
    ORDER BY a.proposed_at DESC LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'break-glass % was until %: once in 24 hours. One that is not open yet is vetoed by: fleet break-glass veto %',
            v_other.id, v_other.expires_at, v_other.id USING ERRCODE = 'FL006';
    END IF;
    v_maximum := (SELECT trunc(coalesce(sum(b.treasury), 0) / 10, v_decimals) FROM fleet.ledger_balances b
                  WHERE b.chain_id = p_chain_id AND b.token = p_token);
    IF v_maximum <= 0 THEN
        RAISE EXCEPTION 'the treasury of chain % has no % in the books: a tenth of nothing is nothing', p_chain_id, p_token
            USING ERRCODE = 'FL006';
    END IF;
    v_parameters := jsonb_build_object('chain_id', p_chain_id, 'token', p_token, 'maximum', trim_scale(v_maximum)::text,
        'reason', p_reason, 'proposed_at', to_char(v_now, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
        'expires_at', to_char(date_trunc('minute', v_now + make_interval(mins => p_minutes)), 'YYYY-MM-DD"T"HH24:MI"+00:00"'));
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by, proposed_at)
    VALUES ('break_glass', p_chain_id, v_parameters, fleet.action_hash('break_glass', v_parameters), p_reason, p_by, v_now)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Any one guard, at any time: what is proposed never opens, what is open closes.
CREATE OR REPLACE FUNCTION fleet.veto_break_glass(p_action_id uuid, p_by text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE fleet.operator_actions SET state = 'withdrawn', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id AND kind = 'break_glass' AND state = 'proposed';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no break-glass % that could be vetoed: fleet break-glass status', p_action_id
            USING ERRCODE = 'FL006';
    END IF;
END $$;
