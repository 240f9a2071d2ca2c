-- A chain's pause (L5, L14, R5): anybody who may stop the fleet sets it at once, and two persons lift it (R10).

-- The first reason stands. True if this call paused the chain; false if it was paused, or no watcher ever saw it.
CREATE OR REPLACE FUNCTION fleet.pause_chain(p_chain_id bigint, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Also of a paused chain: what is found while two persons lift the pause comes before it, and is seen, or after it.
    PERFORM FROM fleet.chain_cursors c WHERE c.chain_id = p_chain_id FOR UPDATE;
    UPDATE fleet.chain_cursors SET paused_reason = p_reason, paused_at = clock_timestamp()
    WHERE chain_id = p_chain_id AND paused_reason IS NULL;
    RETURN FOUND;
END $$;

-- A process that may write the row for other reasons still lifts no pause: only fleet.execute_go_on() runs as the owner.
CREATE OR REPLACE FUNCTION fleet.refuse_going_on() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_user IN (
        SELECT t.tableowner FROM pg_tables t WHERE t.schemaname = TG_TABLE_SCHEMA AND t.tablename = TG_TABLE_NAME
        UNION ALL SELECT r.rolname FROM pg_roles r WHERE r.rolsuper AND r.rolname = current_user) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'chain % is paused (%): two persons lift it (R10): fleet chain go-on', OLD.chain_id, OLD.paused_reason
        USING ERRCODE = 'FL006';
END $$;

-- The dead work that a pause of this chain was for: losses, vanished moves, what left the treasury without us.
CREATE OR REPLACE FUNCTION fleet.work_behind_pause(p_chain_id bigint) RETURNS SETOF fleet.dead_work
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.* FROM fleet.dead_work d
    WHERE d.resolved_at IS NULL AND d.queue = 'watcher' AND (
        d.subject_kind = 'treasury_transaction' AND starts_with(d.subject_id, p_chain_id || ':')
        -- A live inbound fact waits for a payment, and stopped nothing.
        OR d.subject_kind = 'chain_fact' AND EXISTS (
            SELECT FROM fleet.chain_facts f WHERE f.id::text = d.subject_id AND f.chain_id = p_chain_id
                AND NOT (f.live AND f.direction = 'inbound')))
$$;

-- What the second person agrees to: this very pause, and this very work.
CREATE OR REPLACE FUNCTION fleet.pause_as_parameters(p_chain_id bigint) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('chain_id', c.chain_id, 'paused_reason', c.paused_reason, 'paused_at', c.paused_at::text,
        'resolves', (SELECT coalesce(jsonb_agg(w.id ORDER BY w.id), '[]') FROM fleet.work_behind_pause(p_chain_id) w))
    FROM fleet.chain_cursors c WHERE c.chain_id = p_chain_id AND c.paused_reason IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION fleet.propose_go_on(p_chain_id bigint, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_parameters jsonb := fleet.pause_as_parameters(p_chain_id);
    v_id uuid;
BEGIN
    IF v_parameters IS NULL THEN
        RAISE EXCEPTION 'chain % is not paused', p_chain_id USING ERRCODE = 'FL006';
    END IF;
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('go_on', p_chain_id, v_parameters, fleet.action_hash('go_on', v_parameters), p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Returns how many rows of dead work are resolved with it.
CREATE OR REPLACE FUNCTION fleet.execute_go_on(p_action_id uuid, p_hash bytea, p_by text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['go_on'], p_hash, p_by);
    v_resolved integer;
BEGIN
    PERFORM FROM fleet.chain_cursors c WHERE c.chain_id = v_action.chain_id FOR UPDATE;
    IF fleet.pause_as_parameters(v_action.chain_id) IS DISTINCT FROM v_action.parameters THEN
        RAISE EXCEPTION 'chain % is no longer as it was when action % was proposed: withdraw it, look, and propose anew',
            v_action.chain_id, p_action_id USING ERRCODE = 'FL006';
    END IF;
    UPDATE fleet.dead_work d SET resolved_at = clock_timestamp(), resolved_by = 'action:' || p_action_id
    WHERE d.id IN (SELECT w.id FROM fleet.work_behind_pause(v_action.chain_id) w);
    GET DIAGNOSTICS v_resolved = ROW_COUNT;
    UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL WHERE chain_id = v_action.chain_id;
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id;
    RETURN v_resolved;
END $$;
