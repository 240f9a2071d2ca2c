-- How payments may move: the same table as custody/payments/transitions.py (a test compares the two), and the trigger
-- that refuses every other UPDATE of status or escrow_state, whoever sends it.
DELETE FROM fleet.payment_transitions;
INSERT INTO fleet.payment_transitions (name, from_status, from_escrow, to_status, to_escrow, entry_type, needs) VALUES
    ('detected', 'pending', NULL, 'processing', NULL, 'payment_detected', NULL),
    ('part_held', 'processing', NULL, 'processing', 'partial', 'hold', NULL),
    ('held', 'processing', NULL, 'confirmed', 'funded', 'hold', NULL),
    ('held', 'processing', 'partial', 'confirmed', 'funded', 'hold', NULL),
    ('became_releasable', 'confirmed', 'funded', 'confirmed', 'releasable', NULL, NULL),
    ('release_reserved', 'confirmed', 'releasable', 'confirmed', 'releasing', 'release', 'reserve'),
    ('release_voided', 'confirmed', 'releasing', 'confirmed', 'releasable', 'release', 'void'),
    ('released', 'confirmed', 'releasing', 'completed', 'released', 'release', 'final'),
    ('part_released', 'confirmed', 'releasing', 'confirmed', 'funded', 'release', 'final'),
    ('rest_refunded', 'confirmed', 'funded', 'completed', 'released', 'release', 'final'),
    ('rest_refunded', 'confirmed', 'releasable', 'completed', 'released', 'release', 'final'),
    ('refunded', 'confirmed', 'funded', 'refunded', 'refunded', 'refund', 'final'),
    ('refunded', 'confirmed', 'releasable', 'refunded', 'refunded', 'refund', 'final'),
    ('refunded', 'processing', 'partial', 'refunded', 'refunded', 'refund', 'final'),
    ('undetected', 'processing', NULL, 'pending', NULL, 'adjustment', NULL),
    ('unheld', 'confirmed', 'funded', 'processing', NULL, 'adjustment', NULL),
    ('unheld', 'confirmed', 'releasable', 'processing', NULL, 'adjustment', NULL),
    ('unheld', 'processing', 'partial', 'processing', NULL, 'adjustment', NULL),
    ('cancelled', 'pending', NULL, 'cancelled', 'cancelled', NULL, NULL),
    ('failed', 'pending', NULL, 'failed', 'failed', NULL, NULL),
    ('cancelled_bare', 'pending', NULL, 'cancelled', NULL, NULL, NULL),
    ('failed_bare', 'pending', NULL, 'failed', NULL, NULL, NULL);

-- Errors: FL005, with the legal moves by name, or with what the books lack for the move.
CREATE OR REPLACE FUNCTION fleet.refuse_illegal_move() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_move fleet.payment_transitions;
    v_legal text;
    v_is_booked boolean;
    v_promised numeric;
BEGIN
    SELECT * INTO v_move FROM fleet.payment_transitions t
    WHERE t.from_status = OLD.status AND t.from_escrow IS NOT DISTINCT FROM OLD.escrow_state
      AND t.to_status = NEW.status AND t.to_escrow IS NOT DISTINCT FROM NEW.escrow_state;
    IF NOT FOUND THEN
        SELECT string_agg(format('%s (to %s/%s)', t.name, t.to_status, coalesce(t.to_escrow::text, 'no escrow')), ', '
                          ORDER BY t.name) INTO v_legal
        FROM fleet.payment_transitions t
        WHERE t.from_status = OLD.status AND t.from_escrow IS NOT DISTINCT FROM OLD.escrow_state;
        RAISE EXCEPTION 'payment % is %/% and may not become %/%; legal: %', OLD.id, OLD.status,
            coalesce(OLD.escrow_state::text, 'no escrow'), NEW.status, coalesce(NEW.escrow_state::text, 'no escrow'),
            coalesce(v_legal, 'none') USING ERRCODE = 'FL005';
    END IF;
    IF v_move.needs IS NULL THEN
        RETURN NEW;
    END IF;
    -- Money promised, taken back or paid: the books say so first, a promise and its end in this very transaction.
    SELECT EXISTS (
        SELECT FROM public.funds_ledger_entries e
        WHERE e.book_id = NEW.id AND e.entry_type = v_move.entry_type AND e.reason = v_move.needs
          AND (v_move.needs = 'final' OR e.tx_id = pg_current_xact_id()::text::bigint)) INTO v_is_booked;
    SELECT coalesce(sum(CASE v_move.entry_type WHEN 'release' THEN b.releasing ELSE b.refunding END), 0) INTO v_promised
    FROM fleet.ledger_balances b WHERE b.book_id = NEW.id;
    IF NOT v_is_booked OR (v_promised > 0) <> (v_move.needs = 'reserve') THEN
        RAISE EXCEPTION 'payment % may not move by %: it needs an entry % : % in its book and % promised; found % and %',
            NEW.id, v_move.name, v_move.entry_type, v_move.needs,
            CASE v_move.needs WHEN 'reserve' THEN 'some amount' ELSE 'nothing' END,
            CASE WHEN v_is_booked THEN 'one' ELSE 'none' END, v_promised USING ERRCODE = 'FL005';
    END IF;
    RETURN NEW;
END $$;
