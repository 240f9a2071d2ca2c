-- What was swept from an address is its rows of derived_destination_sweeps, which only grow; its two totals follow from
-- them, whoever writes.

CREATE OR REPLACE FUNCTION fleet.refuse_sweep_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'derived_destination_sweeps is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE OR REPLACE FUNCTION fleet.total_sweeps() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.derived_destinations d SET sweep_count = s.n, total_swept = s.total, updated_at = clock_timestamp()
    FROM (SELECT count(*) AS n, coalesce(sum(w.amount), 0) AS total FROM public.derived_destination_sweeps w
          WHERE w.derived_destination_id = NEW.derived_destination_id) s
    WHERE d.id = NEW.derived_destination_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.refuse_other_totals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM (SELECT count(*) AS n, coalesce(sum(w.amount), 0) AS total FROM public.derived_destination_sweeps w
                     WHERE w.derived_destination_id = NEW.id) s
        WHERE s.n = NEW.sweep_count AND s.total = NEW.total_swept) THEN
        RAISE EXCEPTION 'sweep_count and total_swept of destination % follow from its sweeps: they are never written', NEW.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
