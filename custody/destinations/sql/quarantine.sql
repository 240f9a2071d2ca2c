-- A quarantined address is neither swept nor freed by any process: any one guard sets it at once, and two persons lift it
-- (R10, R13, R20). Errors: FL006, with what to do.

-- The first reason stands. True if this call quarantined it.
CREATE OR REPLACE FUNCTION fleet.quarantine_destination(p_destination_id uuid, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.derived_destinations d WHERE d.id = p_destination_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no destination %', p_destination_id USING ERRCODE = 'FL006';
    END IF;
    UPDATE public.derived_destinations d
    SET status = 'quarantined', quarantine_reason = p_reason, updated_at = clock_timestamp()
    WHERE d.id = p_destination_id AND d.status <> 'quarantined';
    RETURN FOUND;
END $$;

-- A process that may write the row for other reasons lifts no quarantine: only fleet.execute_readmission() runs as the owner.
CREATE OR REPLACE FUNCTION fleet.refuse_readmission() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_has_role(current_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'destination % is quarantined (%): two persons release it (R10): fleet destinations release',
        OLD.id, OLD.quarantine_reason USING ERRCODE = 'FL006';
END $$;

-- What people were told of an address' failed sweeps.
CREATE OR REPLACE FUNCTION fleet.work_behind_quarantine(p_destination_id uuid) RETURNS SETOF fleet.dead_work
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.* FROM fleet.sweep_jobs j JOIN fleet.dead_work w ON w.subject_id = j.id::text
    WHERE j.destination_id = p_destination_id AND w.queue = 'sweeps' AND w.subject_kind = 'sweep_job' AND w.resolved_at IS NULL
$$;

-- What two persons agree to: this address, quarantined for this very reason, and this very work.
CREATE OR REPLACE FUNCTION fleet.quarantine_as_parameters(p_destination_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('chain_id', d.chain_id, 'destination', d.id, 'address', d.address,
        'quarantine_reason', d.quarantine_reason,
        'resolves', (SELECT coalesce(jsonb_agg(w.id ORDER BY w.id), '[]') FROM fleet.work_behind_quarantine(d.id) w))
    FROM public.derived_destinations d WHERE d.id = p_destination_id AND d.status = 'quarantined'
$$;

-- R20: coins may lie at an address that does not come from its account; nobody's signature makes it ours.
CREATE OR REPLACE FUNCTION fleet.require_derived(p_destination_id uuid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM fleet.destination_audits a JOIN public.derived_destinations d ON d.id = a.destination_id
               WHERE d.id = p_destination_id AND NOT a.is_derived
                 AND (a.address, a.derivation_path, a.derivation_index, a.deposit_account_id) IS NOT DISTINCT FROM
                     (d.address, d.derivation_path, d.derivation_index, d.deposit_account_id)) THEN
        RAISE EXCEPTION 'destination % does not come from its deposit account (fleet destinations audit): restore its row first',
            p_destination_id USING ERRCODE = 'FL006';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION fleet.propose_readmission(p_destination_id uuid, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_parameters jsonb := fleet.quarantine_as_parameters(p_destination_id);
    v_id uuid;
BEGIN
    IF v_parameters IS NULL THEN
        RAISE EXCEPTION 'destination % is not quarantined', p_destination_id USING ERRCODE = 'FL006';
    END IF;
    PERFORM fleet.require_derived(p_destination_id);
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('readmit', (v_parameters ->> 'chain_id')::bigint, v_parameters, fleet.action_hash('readmit', v_parameters),
            p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Returns the destination's id. The work that people were told of is resolved with it.
CREATE OR REPLACE FUNCTION fleet.execute_readmission(p_action_id uuid, p_hash bytea, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['readmit'], p_hash, p_by);
    v_destination_id uuid := (v_action.parameters ->> 'destination')::uuid;
BEGIN
    PERFORM FROM public.derived_destinations d WHERE d.id = v_destination_id FOR UPDATE;
    IF fleet.quarantine_as_parameters(v_destination_id) IS DISTINCT FROM v_action.parameters THEN
        RAISE EXCEPTION 'destination % is no longer as it was when action % was proposed: withdraw it, look, and propose anew',
            v_destination_id, p_action_id USING ERRCODE = 'FL006';
    END IF;
    PERFORM fleet.require_derived(v_destination_id);
    UPDATE fleet.dead_work w SET resolved_at = clock_timestamp(), resolved_by = 'action:' || p_action_id
    WHERE w.id IN (SELECT b.id FROM fleet.work_behind_quarantine(v_destination_id) b);
    UPDATE public.derived_destinations d SET quarantine_reason = NULL, updated_at = clock_timestamp(),
        status = CASE WHEN EXISTS (SELECT FROM fleet.sweep_jobs j WHERE j.destination_id = d.id
                                   AND j.state IN ('planned', 'funding', 'transferring'))
            THEN 'sweeping' ELSE 'active' END::public.derived_destination_status
    WHERE d.id = v_destination_id;
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id;
    RETURN v_destination_id;
END $$;

-- An address that may be a stranger's, or that holds what must not move, is told to people at once.
CREATE OR REPLACE FUNCTION fleet.alarm_of_quarantine() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fleet.raise_alarm('quarantine', 'destination', NEW.id::text,
        'deposit address ' || NEW.address || ' is quarantined: ' || NEW.quarantine_reason, NULL);
    RETURN NULL;
END $$;
