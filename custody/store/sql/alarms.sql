-- What raises an alarm, and in which words. Each is one sentence; no column that may hold a key, a body or a document is
-- read, and what an error said is cut to its first line. An alarm never keeps the work it is about from being written:
-- every text is cut to what the table takes.

CREATE OR REPLACE FUNCTION fleet.alarm_text(p_text text, p_maximum integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN t.line = '' THEN '?' WHEN length(t.line) > p_maximum THEN left(t.line, p_maximum - 3) || '...'
        ELSE t.line END
    FROM (SELECT btrim(regexp_replace(split_part(btrim(coalesce(p_text, ''), E' \r\n\t'), E'\n', 1),
                                      '[[:cntrl:]]+', ' ', 'g')) AS line) t
$$;

-- At most one open alarm of a kind for a subject: while it is open, the thing itself says what happened since.
CREATE OR REPLACE FUNCTION fleet.raise_alarm(
    p_kind text, p_subject_kind text, p_subject_id text, p_sentence text, p_payment_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO fleet.alarms (kind, subject_kind, subject_id, sentence, payment_id)
    VALUES (p_kind, fleet.alarm_text(p_subject_kind, 100), fleet.alarm_text(p_subject_id, 200),
            fleet.alarm_text(p_sentence, 500), p_payment_id)
    ON CONFLICT (kind, subject_kind, subject_id) WHERE acknowledged_at IS NULL DO NOTHING;
END $$;

CREATE OR REPLACE FUNCTION fleet.refuse_alarm_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.id, OLD.kind, OLD.subject_kind, OLD.subject_id, OLD.sentence, OLD.payment_id, OLD.raised_at)
            IS NOT DISTINCT FROM
            (NEW.id, NEW.kind, NEW.subject_kind, NEW.subject_id, NEW.sentence, NEW.payment_id, NEW.raised_at)
       AND (OLD.acknowledged_at IS NULL OR (OLD.acknowledged_at, OLD.acknowledged_by) IS NOT DISTINCT FROM
            (NEW.acknowledged_at, NEW.acknowledged_by)) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'fleet.alarms only grows: what was raised, and who acknowledged it, is never changed'
        USING ERRCODE = 'FL006';
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_dead_work() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.resolved_at IS NULL AND (TG_OP = 'INSERT' OR OLD.resolved_at IS NOT NULL) THEN
        PERFORM fleet.raise_alarm('dead_work', NEW.queue || '/' || NEW.subject_kind, NEW.subject_id,
            NEW.queue || ' gave up on ' || NEW.subject_kind || ' ' || NEW.subject_id || ': ' || NEW.reason, NEW.payment_id);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_pause() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.paused_reason, NEW.paused_at) IS DISTINCT FROM (OLD.paused_reason, OLD.paused_at) THEN
        PERFORM fleet.raise_alarm('chain_paused', 'chain', NEW.chain_id::text,
            'chain ' || NEW.chain_id || ' is paused: ' || NEW.paused_reason, NULL);
    END IF;
    RETURN NULL;
END $$;

-- The payload may hold anything: it is never read.
CREATE OR REPLACE FUNCTION fleet.alarm_of_gap() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.severity IS DISTINCT FROM OLD.severity THEN
        PERFORM fleet.raise_alarm('security_gap', NEW.collection, coalesce(NEW.legacy_object_id, NEW.id::text),
            NEW.collection || ' ' || coalesce(NEW.legacy_object_id, NEW.id::text) || ' was not applied (' || NEW.op || '): '
                || NEW.reason,
            -- Of several payments the first one: fleet gaps show names all.
            (SELECT s.payment_id FROM fleet.security_pauses s WHERE s.gap_id = NEW.id ORDER BY s.payment_id LIMIT 1));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_instruction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A group is told of once (R23), and not at all where it was only taken apart: its payments go on.
    PERFORM fleet.raise_alarm(i.purpose || '_' || i.state, 'release_instruction', i.id::text,
        left('the ' || i.purpose || ' of ' || coalesce('payment ' || i.payment_id, 'the house at ' || CASE WHEN i.house_id IS NOT NULL THEN i.treasury END, 'a group of '
            || (SELECT count(*) FROM fleet.release_instructions m WHERE m.group_id = i.id) || ' payments') || ' ' || i.state
            || ': ' || coalesce(i.held_reason, 'its instruction says no reason'), 500), i.payment_id)
    FROM fleet.release_instructions i WHERE i.id = NEW.id AND i.state = NEW.state AND i.group_id IS NULL
        AND (num_nonnulls(i.payment_id, i.house_id) > 0 OR EXISTS (SELECT FROM fleet.release_instructions m WHERE m.group_id = i.id));
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state THEN
        RETURN NULL;
    END IF;
    IF NEW.state = 'refused' THEN
        PERFORM fleet.raise_alarm('approval_refused', NEW.subject_kind, NEW.subject_id::text,
            'an approval of ' || NEW.subject_kind || ' ' || NEW.subject_id || ' in the name of ' || NEW.person
                || ' was refused: ' || coalesce(NEW.refused_reason, 'no reason is given'),
            (SELECT i.payment_id FROM fleet.release_instructions i
             WHERE NEW.subject_kind = 'release_instruction' AND i.id = NEW.subject_id));
    ELSIF NEW.subject_kind = 'operator_action' THEN
        -- R15: raised once two persons have signed; it opens only after the receiver has acknowledged this alarm.
        PERFORM fleet.raise_alarm('break_glass', 'operator_action', a.id::text,
            'break-glass on chain ' || a.chain_id || ' for at most ' || (a.parameters ->> 'maximum') || ' of '
                || (a.parameters ->> 'token') || ' is signed by '
                || array_to_string(fleet.persons_who_signed(a.id, a.parameter_hash), ' and ') || ' until '
                || (a.parameters ->> 'expires_at') || '; to end it: fleet break-glass veto ' || a.id, NULL)
        FROM fleet.operator_actions a
        WHERE a.id = NEW.subject_id AND a.kind = 'break_glass'
          AND cardinality(fleet.persons_who_signed(a.id, a.parameter_hash)) = 2;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_proposal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fleet.raise_alarm('break_glass_proposed', 'operator_action', NEW.id::text,
        NEW.proposed_by || ' proposes break-glass on chain ' || NEW.chain_id || ' (' || NEW.reason
            || '); to end it: fleet break-glass veto ' || NEW.id, NULL);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.alarm_of_signature() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.state IS DISTINCT FROM OLD.state THEN
        PERFORM fleet.raise_alarm('signature_refused', 'release_instruction', NEW.instruction_id::text,
            'what a signer handed in for instruction ' || NEW.instruction_id || ' was refused: '
                || coalesce(NEW.refused_reason, 'no reason is given'),
            (SELECT i.payment_id FROM fleet.release_instructions i WHERE i.id = NEW.instruction_id));
    END IF;
    RETURN NULL;
END $$;

-- A person says that somebody knows. False if it was acknowledged already. Raises FL006.
CREATE OR REPLACE FUNCTION fleet.acknowledge_alarm(p_id uuid, p_by text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(length(p_by), 0) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'by: expected 1 to 100 characters' USING ERRCODE = 'FL006';
    END IF;
    IF EXISTS (SELECT FROM fleet.alarms a WHERE a.id = p_id AND a.kind = 'break_glass' AND a.acknowledged_at IS NULL) THEN
        RAISE EXCEPTION 'alarm % is of a break-glass: only the alarms'' receiver acknowledges it (R15), at ALARM_WEBHOOK_URL', p_id
            USING ERRCODE = 'FL006';
    END IF;
    PERFORM FROM fleet.alarms a WHERE a.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no alarm %: fleet alarms lists those that are open', p_id USING ERRCODE = 'FL006';
    END IF;
    UPDATE fleet.alarms SET acknowledged_at = clock_timestamp(), acknowledged_by = p_by
    WHERE id = p_id AND acknowledged_at IS NULL;
    RETURN FOUND;
END $$;
