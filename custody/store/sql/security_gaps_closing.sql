-- Nobody closes, changes or deletes a security gap but two persons (R7, R10), whatever a role may write. Error: FL006.

CREATE OR REPLACE FUNCTION fleet.refuse_gap_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.resolved_at IS NULL AND NEW.resolved_at IS NOT NULL
       AND (OLD.id, OLD.collection, OLD.op, OLD.legacy_object_id, OLD.payload, OLD.severity, OLD.reason, OLD.created_at)
           IS NOT DISTINCT FROM
           (NEW.id, NEW.collection, NEW.op, NEW.legacy_object_id, NEW.payload, NEW.severity, NEW.reason, NEW.created_at)
       AND EXISTS (SELECT FROM fleet.operator_actions a
                   WHERE a.kind = 'resolve_gap' AND a.state = 'executed' AND NEW.resolved_by = 'action:' || a.id
                     AND a.parameters ->> 'gap' = OLD.id::text) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'gap % is of severity security: two persons close it (R7, R10): fleet gaps resolve %', OLD.id, OLD.id
        USING ERRCODE = 'FL006';
END $$;
