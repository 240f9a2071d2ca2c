-- Cutting a domain over (design §3): proposed by one person, signed by two (R10), executed only while it is clean.
-- Errors: FL006, with everything that stands against it.

-- The collections of each domain, as the marketplace's own repositories have them. Here and nowhere else.
CREATE OR REPLACE FUNCTION fleet.domain_collections(p_domain text) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE p_domain
        WHEN 'marketplace' THEN ARRAY['categories', 'purchaserequests', 'selleroffers', 'requesttemplates']
        WHEN 'dispute' THEN ARRAY['disputes'] END
$$;

-- shadow_reads: answers that agreed one after the other. A hundred payments in escrow are asked about in each round, so
-- that this is ten rounds of all of them; one payment alone is asked about for a quarter of an hour.
-- round_age: how old the last whole comparison may be. The schedule comes past ten million documents in 7 hours.
CREATE OR REPLACE FUNCTION fleet.cutover_limits(OUT shadow_reads bigint, OUT round_age interval)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT 1000::bigint, interval '24 hours' $$;

-- Which store decides now; null while nobody has said.
CREATE OR REPLACE FUNCTION fleet.store_of(p_domain text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT c.to_store FROM fleet.cutovers c WHERE c.domain = p_domain ORDER BY c.number DESC LIMIT 1),
        (SELECT b.store FROM fleet.domain_beginnings b WHERE b.domain = p_domain))
$$;

-- Whether Postgres alone decides of a collection: then MongoDB's values are no longer taken into it.
CREATE OR REPLACE FUNCTION fleet.is_cut_over(p_collection text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM unnest(ARRAY['dispute', 'marketplace']) AS d (domain)
                   WHERE p_collection = ANY (fleet.domain_collections(d.domain)) AND fleet.store_of(d.domain) = 'pg')
$$;

-- How a domain stands: everything that a cutover is judged by. A backfill of what changed lately (--since) counts as one: that
-- nothing is missing is the comparison's to say.
CREATE OR REPLACE FUNCTION fleet.cutover_evidence(p_domain text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT jsonb_build_object(
        'domain', p_domain, 'judged_at', clock_timestamp(), 'store', fleet.store_of(p_domain),
        'cutover', (SELECT jsonb_build_object('number', c.number, 'to', c.to_store, 'action', c.action_id, 'executed_at', c.executed_at)
                    FROM fleet.cutovers c WHERE c.domain = p_domain ORDER BY c.number DESC LIMIT 1),
        'shadow_reads', (SELECT jsonb_build_object('compared', s.compared, 'mismatched', s.mismatched, 'agreed', s.agreed,
                            'since', s.since, 'last_mismatch', s.last_mismatch, 'last_mismatch_at', s.last_mismatch_at)
                         FROM fleet.shadow_reads s WHERE s.domain = p_domain),
        'collections', (SELECT jsonb_agg(jsonb_build_object(
            'name', n.name,
            'backfill', (SELECT jsonb_build_object('seen', max(b.seen) FILTER (WHERE b.stage = 'documents'),
                            'is_finished', coalesce(bool_and(b.finished_at IS NOT NULL), false),
                            'finished_at', max(b.finished_at))
                         FROM fleet.backfill_progress b WHERE b.collection = n.name),
            'open_gaps', (SELECT coalesce(jsonb_object_agg(g.severity, g.count), '{}') FROM (
                            SELECT x.severity, count(*) FROM public.pg_dualwrite_gaps x
                            WHERE x.collection = n.name AND x.resolved_at IS NULL GROUP BY 1) g),
            'round', (SELECT jsonb_build_object('began_at', a.began_at, 'finished_at', a.finished_at, 'documents', a.documents,
                            'rows', a.table_rows, 'equal', a.equal, 'different', a.different, 'unreadable', a.unreadable,
                            'waiting', a.waiting)
                      FROM fleet.mirror_agreements a WHERE a.collection = n.name AND a.finished_at IS NOT NULL),
            'open_differences', (SELECT count(*) FROM fleet.mirror_differences d
                                 WHERE d.collection = n.name AND d.resolved_at IS NULL AND d.state <> 'waiting'),
            'mirror_waits', (SELECT count(*) FROM fleet.outbox o WHERE o.queue = 'mirror' AND o.collection = n.name)
            ) ORDER BY n.place)
            FROM unnest(fleet.domain_collections(p_domain)) WITH ORDINALITY AS n (name, place)))
$$;

-- What stands against it, a sentence each; empty when nothing does.
CREATE OR REPLACE FUNCTION fleet.why_not_cut_over(p_domain text, p_to text, p_evidence jsonb) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_store text := p_evidence ->> 'store';
    v_limits record := fleet.cutover_limits();
    v_began timestamptz;
    v_agreed bigint := coalesce((p_evidence -> 'shadow_reads' ->> 'agreed')::bigint, 0);
    v_each jsonb;
    v_round jsonb;
    v_why text[] := '{}';
BEGIN
    IF v_store IS NULL THEN
        RETURN ARRAY[format('nobody has said where %s is read: start the releases worker, which says it', p_domain)];
    ELSIF v_store = p_to THEN
        RETURN ARRAY[format('%s is read as %s already', p_domain, p_to)];
    ELSIF v_store = 'mongo' AND p_to = 'pg' THEN
        v_why := v_why || format('it is read from MongoDB alone: cut it over to dual first, so that both are compared');
    ELSIF v_store = 'pg' AND p_to = 'mongo' THEN
        RETURN ARRAY['it is read from Postgres: cut it over to dual first, which shows whether MongoDB has all of it'::text];
    ELSIF v_store <> 'pg' AND p_to <> 'pg' THEN
        RETURN v_why;  -- MongoDB decides before and after it
    END IF;
    v_began := CASE WHEN v_store = 'pg' THEN (p_evidence -> 'cutover' ->> 'executed_at')::timestamptz END;
    FOR v_each IN SELECT * FROM jsonb_array_elements(p_evidence -> 'collections') LOOP
        v_round := v_each -> 'round';
        IF NOT (v_each -> 'backfill' ->> 'is_finished')::boolean THEN
            v_why := v_why || format('%s: its backfill is not finished: fleet mirror backfill --collection %s',
                v_each ->> 'name', v_each ->> 'name');
        END IF;
        IF v_each -> 'open_gaps' <> '{}' THEN
            v_why := v_why || format('%s: %s gap(s) are open: fleet gaps list --collection %s', v_each ->> 'name',
                (SELECT sum(value::bigint) FROM jsonb_each_text(v_each -> 'open_gaps')), v_each ->> 'name');
        END IF;
        IF v_round IS NULL OR jsonb_typeof(v_round) = 'null' THEN
            v_why := v_why || format('%s: both stores were never compared: fleet mirror verify --collection %s',
                v_each ->> 'name', v_each ->> 'name');
        ELSE
            IF (v_round ->> 'began_at')::timestamptz < clock_timestamp() - v_limits.round_age THEN
                v_why := v_why || format('%s: both stores were compared before %s, expected within %s: fleet mirror verify --collection %s',
                    v_each ->> 'name', v_round ->> 'began_at', v_limits.round_age, v_each ->> 'name');
            ELSIF (v_round ->> 'began_at')::timestamptz < v_began THEN
                v_why := v_why || format('%s: both stores were not compared since Postgres took over: fleet mirror verify --collection %s',
                    v_each ->> 'name', v_each ->> 'name');
            END IF;
            IF (v_round ->> 'different')::bigint + (v_round ->> 'unreadable')::bigint > 0
               OR (v_each ->> 'open_differences')::bigint > 0 THEN
                v_why := v_why || format('%s: the stores differ in %s document(s), %s are unreadable: fleet mirror verify --collection %s',
                    v_each ->> 'name', greatest((v_round ->> 'different')::bigint, (v_each ->> 'open_differences')::bigint),
                    v_round ->> 'unreadable', v_each ->> 'name');
            ELSIF v_store = 'pg' AND (v_round ->> 'waiting')::bigint > 0 THEN
                -- Nobody reads MongoDB beside it, so that nothing else would show what it lacks.
                v_why := v_why || format('%s: %s document(s) differed that had just been changed: fleet mirror verify --collection %s',
                    v_each ->> 'name', v_round ->> 'waiting', v_each ->> 'name');
            END IF;
        END IF;
        IF v_store = 'pg' AND (v_each ->> 'mirror_waits')::bigint > 0 THEN
            v_why := v_why || format('%s: the mirror has still to write %s document(s): see fleet status', v_each ->> 'name',
                v_each ->> 'mirror_waits');
        END IF;
    END LOOP;
    IF p_to = 'pg' AND v_agreed < v_limits.shadow_reads THEN
        v_why := v_why || format('%s answers of both stores agreed since the last that differed, expected %s: let the releases worker read on',
            v_agreed, v_limits.shadow_reads);
    END IF;
    RETURN v_why;
END $$;

-- Raises FL006 unless nothing stands against it; returns what it was judged by.
CREATE OR REPLACE FUNCTION fleet.require_clean_cutover(p_domain text, p_to text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_evidence jsonb;
    v_why text[];
BEGIN
    IF fleet.domain_collections(p_domain) IS NULL OR p_to NOT IN ('mongo', 'dual', 'pg') THEN
        RAISE EXCEPTION 'there is no cutover of % to %: expected dispute or marketplace, to mongo, dual or pg', p_domain, p_to
            USING ERRCODE = 'FL006';
    END IF;
    v_evidence := fleet.cutover_evidence(p_domain);
    v_why := fleet.why_not_cut_over(p_domain, p_to, v_evidence);
    IF v_why <> '{}' THEN
        RAISE EXCEPTION 'the cutover of % to % is refused: %', p_domain, p_to, array_to_string(v_why, '; ')
            USING ERRCODE = 'FL006';
    END IF;
    RETURN v_evidence;
END $$;

CREATE OR REPLACE FUNCTION fleet.propose_cutover(p_domain text, p_to text, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_evidence jsonb := fleet.require_clean_cutover(p_domain, p_to);
    v_parameters jsonb := jsonb_build_object('chain_id', 0, 'domain', p_domain, 'from', v_evidence ->> 'store', 'to', p_to,
        'reason', p_reason);
    v_id uuid;
BEGIN
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('cutover', 0, v_parameters, fleet.action_hash('cutover', v_parameters), p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Judged again at this moment. Returns the cutover's number; the releases worker follows in its next round.
CREATE OR REPLACE FUNCTION fleet.execute_cutover(p_action_id uuid, p_hash bytea, p_by text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['cutover'], p_hash, p_by);
    v_domain text := v_action.parameters ->> 'domain';
    v_to text := v_action.parameters ->> 'to';
    v_evidence jsonb;
    v_number bigint;
BEGIN
    -- One at a time: each is judged by what the one before it left.
    PERFORM pg_advisory_xact_lock(hashtext('fleet.cutovers'));
    IF fleet.store_of(v_domain) IS DISTINCT FROM v_action.parameters ->> 'from' THEN
        RAISE EXCEPTION '% is read as % now, and was as % when action % was proposed: withdraw it and propose anew', v_domain,
            coalesce(fleet.store_of(v_domain), 'nobody says what'), v_action.parameters ->> 'from', p_action_id
            USING ERRCODE = 'FL006';
    END IF;
    v_evidence := fleet.require_clean_cutover(v_domain, v_to);
    INSERT INTO fleet.cutovers (domain, from_store, to_store, action_id, evidence)
    VALUES (v_domain, v_action.parameters ->> 'from', v_to, p_action_id, v_evidence) RETURNING number INTO v_number;
    IF v_to = 'dual' THEN  -- what both stores said before it counts for nothing
        UPDATE fleet.shadow_reads s SET compared = 0, mismatched = 0, agreed = 0, last_mismatch = NULL,
            last_mismatch_at = NULL, since = clock_timestamp(), updated_at = clock_timestamp()
        WHERE s.domain = v_domain;
    END IF;
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id;
    INSERT INTO fleet.outbox (queue) VALUES ('releases');
    RETURN v_number;
END $$;
