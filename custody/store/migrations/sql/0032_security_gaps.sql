-- A gap of severity security pauses the payments that it concerns until two persons close it (R7, R10).

-- Each payment that goes out asks for open ones: mostly there is none.
CREATE INDEX pg_dualwrite_gaps_security ON public.pg_dualwrite_gaps (collection, legacy_object_id)
    WHERE severity = 'security' AND resolved_at IS NULL;

CREATE TRIGGER pg_dualwrite_gaps_two_persons BEFORE UPDATE OR DELETE ON public.pg_dualwrite_gaps FOR EACH ROW
    WHEN (OLD.severity = 'security') EXECUTE FUNCTION fleet.refuse_gap_change();
ALTER TABLE public.pg_dualwrite_gaps ENABLE ALWAYS TRIGGER pg_dualwrite_gaps_two_persons;

-- What was cancelled for a gap is drafted again once it is closed (custody/releases/security_stops.py).
CREATE INDEX release_requests_security ON fleet.release_requests (instruction_id) WHERE requested_by = 'security_gaps';

-- Documents whose values two persons have asked the mirror to write again as the fleet has them.
CREATE TABLE fleet.mirror_restorations (
    action_id uuid PRIMARY KEY REFERENCES fleet.operator_actions (id),
    collection text NOT NULL CHECK (length(collection) BETWEEN 1 AND 100),
    document_id uuid NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    written_at timestamptz
);
CREATE INDEX mirror_restorations_due ON fleet.mirror_restorations (collection, document_id) WHERE written_at IS NULL;

-- A difference that two persons have looked at and left as it is.
ALTER TABLE fleet.mirror_differences
    DROP CONSTRAINT mirror_differences_state_check,
    ADD CONSTRAINT mirror_differences_state_check
        CHECK (state IN ('waiting', 'open', 'healed', 'asked', 'security', 'accepted', 'unreadable'));
