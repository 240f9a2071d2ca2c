-- Asks for the mirror of ledger entries whose transactions have finished, at most p_limit and whole transactions (one that
-- has more than p_limit is taken whole). Returns how many rows it wrote to fleet.outbox; 0 also when another is at it.
--
-- post_entry() writes no outbox row: one an entry, with its three indexes, was a fifth of its cost. Nothing is lost by it:
-- the entry itself is what asks, and the cursor moves in the transaction that writes the rows. As in a seal, a window ends
-- below every transaction that still runs, so one that commits late is never passed over; a writer that stays open
-- delays the mirror, which then alarms (tasks/housekeeping.py).
CREATE OR REPLACE FUNCTION fleet.ask_for_entries(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Judged by the window at hand, through the index by tx_id: a guess of it would read the whole ledger several times a second.
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off AS $$
DECLARE
    -- Read before the entries: whatever ends after it is left for the next call.
    v_end bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    v_from bigint;
    v_cut bigint;
    v_asked integer;
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'ask_for_entries: expected a limit of at least 1, got %', p_limit USING ERRCODE = 'FL004';
    END IF;
    -- First without a lock: a look that finds nothing writes nothing.
    SELECT c.next_tx INTO v_from FROM fleet.mirror_cursor c;
    IF NOT EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.tx_id >= v_from AND e.tx_id < v_end) THEN
        RETURN 0;
    END IF;
    SELECT c.next_tx INTO v_from FROM fleet.mirror_cursor c FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR v_from >= v_end THEN
        RETURN 0;
    END IF;
    SELECT e.tx_id INTO v_cut FROM public.funds_ledger_entries e
    WHERE e.tx_id >= v_from AND e.tx_id < v_end ORDER BY e.tx_id OFFSET p_limit LIMIT 1;
    IF v_cut IS NOT NULL THEN
        -- Entries below the cut; or, when the first transaction alone reaches it, that transaction.
        SELECT max(e.tx_id) + 1 INTO v_end FROM public.funds_ledger_entries e WHERE e.tx_id >= v_from AND e.tx_id < v_cut;
        v_end := coalesce(v_end, v_cut + 1);
    END IF;
    INSERT INTO fleet.outbox (queue, collection, document_id)
    SELECT 'mirror', 'fundsledgerentries', e.id FROM public.funds_ledger_entries e
    WHERE e.tx_id >= v_from AND e.tx_id < v_end ORDER BY e.tx_id, e.id;
    GET DIAGNOSTICS v_asked = ROW_COUNT;
    UPDATE fleet.mirror_cursor SET next_tx = v_end;
    RETURN v_asked;
END $$;
