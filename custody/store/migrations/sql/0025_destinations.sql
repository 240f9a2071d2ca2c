-- What nobody but two persons, or the sweeps themselves, may change of a deposit address.

ALTER TABLE fleet.operator_actions
    DROP CONSTRAINT operator_actions_kind,
    ADD CONSTRAINT operator_actions_kind CHECK (kind IN ('adjust', 'go_on', 'break_glass', 'readmit', 'delist'));

CREATE TRIGGER derived_destinations_readmission BEFORE UPDATE ON public.derived_destinations FOR EACH ROW
    WHEN (OLD.status = 'quarantined' AND NEW.status <> 'quarantined')
    EXECUTE FUNCTION fleet.refuse_readmission();
ALTER TABLE public.derived_destinations ENABLE ALWAYS TRIGGER derived_destinations_readmission;

-- A sweep that failed is told by the work that was given up.
CREATE TRIGGER derived_destinations_alarm AFTER UPDATE ON public.derived_destinations FOR EACH ROW
    WHEN (NEW.status = 'quarantined' AND OLD.status <> 'quarantined' AND NEW.quarantine_reason ~ '^(not_derived|sanctioned):')
    EXECUTE FUNCTION fleet.alarm_of_quarantine();
ALTER TABLE public.derived_destinations ENABLE ALWAYS TRIGGER derived_destinations_alarm;

CREATE TRIGGER derived_destination_sweeps_no_change BEFORE UPDATE OR DELETE ON public.derived_destination_sweeps
    FOR EACH ROW EXECUTE FUNCTION fleet.refuse_sweep_change();
CREATE TRIGGER derived_destination_sweeps_no_truncate BEFORE TRUNCATE ON public.derived_destination_sweeps
    FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_sweep_change();
CREATE TRIGGER derived_destination_sweeps_total AFTER INSERT ON public.derived_destination_sweeps
    FOR EACH ROW EXECUTE FUNCTION fleet.total_sweeps();
ALTER TABLE public.derived_destination_sweeps ENABLE ALWAYS TRIGGER derived_destination_sweeps_no_change;
ALTER TABLE public.derived_destination_sweeps ENABLE ALWAYS TRIGGER derived_destination_sweeps_no_truncate;
ALTER TABLE public.derived_destination_sweeps ENABLE ALWAYS TRIGGER derived_destination_sweeps_total;

CREATE TRIGGER derived_destinations_totals BEFORE UPDATE ON public.derived_destinations FOR EACH ROW
    WHEN ((OLD.sweep_count, OLD.total_swept) IS DISTINCT FROM (NEW.sweep_count, NEW.total_swept))
    EXECUTE FUNCTION fleet.refuse_other_totals();
CREATE TRIGGER derived_destinations_no_totals BEFORE INSERT ON public.derived_destinations FOR EACH ROW
    WHEN (NEW.sweep_count <> 0 OR NEW.total_swept <> 0)
    EXECUTE FUNCTION fleet.refuse_other_totals();
ALTER TABLE public.derived_destinations ENABLE ALWAYS TRIGGER derived_destinations_totals;
ALTER TABLE public.derived_destinations ENABLE ALWAYS TRIGGER derived_destinations_no_totals;

CREATE TRIGGER funds_ledger_entries_sanctioned AFTER INSERT ON public.funds_ledger_entries FOR EACH ROW
    WHEN (NEW.debit = 'suspense' AND NEW.reverses_entry_id IS NULL)
    EXECUTE FUNCTION fleet.refuse_spending_sanctioned();
ALTER TABLE public.funds_ledger_entries ENABLE ALWAYS TRIGGER funds_ledger_entries_sanctioned;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['sanctions_lists', 'sanctioned_addresses', 'sanctions_delisted'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON fleet.%I FOR EACH ROW '
                       'EXECUTE FUNCTION fleet.refuse_sanctions_change()', t || '_no_change', t);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON fleet.%I FOR EACH STATEMENT '
                       'EXECUTE FUNCTION fleet.refuse_sanctions_change()', t || '_no_truncate', t);
        EXECUTE format('ALTER TABLE fleet.%I ENABLE ALWAYS TRIGGER %I', t, t || '_no_change');
        EXECUTE format('ALTER TABLE fleet.%I ENABLE ALWAYS TRIGGER %I', t, t || '_no_truncate');
    END LOOP;
END $$;
