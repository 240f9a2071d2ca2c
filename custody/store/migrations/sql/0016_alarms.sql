-- Alarms: one row for each thing that came to need people. Written by triggers, so that no process forgets; what they
-- say is in custody/store/sql/alarms.sql.

CREATE TABLE fleet.alarms (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
    subject_kind text NOT NULL CHECK (length(subject_kind) BETWEEN 1 AND 100),
    subject_id text NOT NULL CHECK (length(subject_id) BETWEEN 1 AND 200),
    sentence text NOT NULL CHECK (length(sentence) BETWEEN 1 AND 500),
    payment_id uuid,
    raised_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Delivery, and nothing else, changes.
    acknowledged_at timestamptz,                -- by the receiver's 2xx, or by a person
    acknowledged_by text CHECK (length(acknowledged_by) BETWEEN 1 AND 100),  -- the person; null: the receiver
    said_at timestamptz,                        -- in the log and to Sentry
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error text CHECK (length(last_error) <= 500),
    CHECK (acknowledged_by IS NULL OR acknowledged_at IS NOT NULL)
);
-- One open alarm a subject: a thing that goes wrong a thousand times is told once, until somebody knows.
CREATE UNIQUE INDEX alarms_one_open ON fleet.alarms (kind, subject_kind, subject_id) WHERE acknowledged_at IS NULL;
CREATE INDEX alarms_open ON fleet.alarms (id) WHERE acknowledged_at IS NULL;
CREATE INDEX alarms_unsaid ON fleet.alarms (id) WHERE said_at IS NULL;

CREATE TRIGGER alarms_no_change BEFORE UPDATE OR DELETE ON fleet.alarms
    FOR EACH ROW EXECUTE FUNCTION fleet.refuse_alarm_change();
CREATE TRIGGER alarms_no_truncate BEFORE TRUNCATE ON fleet.alarms
    FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_alarm_change();
ALTER TABLE fleet.alarms ENABLE ALWAYS TRIGGER alarms_no_change;
ALTER TABLE fleet.alarms ENABLE ALWAYS TRIGGER alarms_no_truncate;

CREATE TRIGGER dead_work_alarm AFTER INSERT OR UPDATE ON fleet.dead_work
    FOR EACH ROW EXECUTE FUNCTION fleet.alarm_of_dead_work();
ALTER TABLE fleet.dead_work ENABLE ALWAYS TRIGGER dead_work_alarm;

CREATE TRIGGER chain_cursors_alarm AFTER INSERT OR UPDATE ON fleet.chain_cursors
    FOR EACH ROW WHEN (NEW.paused_reason IS NOT NULL) EXECUTE FUNCTION fleet.alarm_of_pause();
ALTER TABLE fleet.chain_cursors ENABLE ALWAYS TRIGGER chain_cursors_alarm;

CREATE TRIGGER pg_dualwrite_gaps_alarm AFTER INSERT OR UPDATE ON public.pg_dualwrite_gaps
    FOR EACH ROW WHEN (NEW.severity = 'security') EXECUTE FUNCTION fleet.alarm_of_gap();
ALTER TABLE public.pg_dualwrite_gaps ENABLE ALWAYS TRIGGER pg_dualwrite_gaps_alarm;

-- At the commit: an instruction's reason is written after its state.
CREATE CONSTRAINT TRIGGER release_instructions_alarm AFTER UPDATE ON fleet.release_instructions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state IN ('expired', 'failed') AND NEW.state IS DISTINCT FROM OLD.state)
    EXECUTE FUNCTION fleet.alarm_of_instruction();
ALTER TABLE fleet.release_instructions ENABLE ALWAYS TRIGGER release_instructions_alarm;

CREATE TRIGGER approvals_alarm AFTER INSERT OR UPDATE ON fleet.approvals
    FOR EACH ROW WHEN (NEW.state <> 'received') EXECUTE FUNCTION fleet.alarm_of_approval();
ALTER TABLE fleet.approvals ENABLE ALWAYS TRIGGER approvals_alarm;

CREATE TRIGGER signature_submissions_alarm AFTER INSERT OR UPDATE ON fleet.signature_submissions
    FOR EACH ROW WHEN (NEW.state = 'refused') EXECUTE FUNCTION fleet.alarm_of_signature();
ALTER TABLE fleet.signature_submissions ENABLE ALWAYS TRIGGER signature_submissions_alarm;

-- Break-glass is an action of two persons (R15); that one is proposed, and that it was signed, is told at once.
ALTER TABLE fleet.operator_actions
    DROP CONSTRAINT operator_actions_kind,
    ADD CONSTRAINT operator_actions_kind CHECK (kind IN ('adjust', 'go_on', 'break_glass'));
CREATE TRIGGER operator_actions_alarm AFTER INSERT ON fleet.operator_actions
    FOR EACH ROW WHEN (NEW.kind = 'break_glass') EXECUTE FUNCTION fleet.alarm_of_proposal();
ALTER TABLE fleet.operator_actions ENABLE ALWAYS TRIGGER operator_actions_alarm;

-- What waits for people as this is installed is told as well.
SELECT fleet.raise_alarm('dead_work', d.queue || '/' || d.subject_kind, d.subject_id,
    d.queue || ' gave up on ' || d.subject_kind || ' ' || d.subject_id || ': ' || d.reason, d.payment_id)
FROM fleet.dead_work d WHERE d.resolved_at IS NULL ORDER BY d.created_at;
SELECT fleet.raise_alarm('chain_paused', 'chain', c.chain_id::text,
    'chain ' || c.chain_id || ' is paused: ' || c.paused_reason, NULL)
FROM fleet.chain_cursors c WHERE c.paused_reason IS NOT NULL ORDER BY c.paused_at;
