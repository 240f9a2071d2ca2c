-- L4: a dispute is a state of the payment's primary row, dispute_open, and only these two move it. The entries that go
-- with it (dispute_hold, voids) are posted by the caller in the same transaction, after it locked the payment.

-- The opening's number, or 0 if this dispute stands open already. Errors: FL004 for a payment without a route.
CREATE OR REPLACE FUNCTION fleet.open_dispute(p_payment_id uuid, p_dispute_id text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_route record;
    v_opening integer;
BEGIN
    SELECT r.chain_id, r.token INTO v_route FROM fleet.payment_routes r WHERE r.payment_id = p_payment_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'payment % has no route: nothing of it can be disputed', p_payment_id USING ERRCODE = 'FL004';
    END IF;
    PERFORM fleet.open_book('payment', p_payment_id, v_route.chain_id, v_route.token);
    PERFORM FROM fleet.ledger_balances b
    WHERE b.book_id = p_payment_id AND b.chain_id = v_route.chain_id AND b.token = v_route.token FOR UPDATE;
    IF EXISTS (SELECT FROM fleet.payment_disputes d
               WHERE d.payment_id = p_payment_id AND d.dispute_id = p_dispute_id AND d.state = 'open') THEN
        RETURN 0;
    END IF;
    INSERT INTO fleet.payment_disputes (payment_id, dispute_id, opening)
    SELECT p_payment_id, p_dispute_id, coalesce(max(d.opening), 0) + 1 FROM fleet.payment_disputes d
    WHERE d.payment_id = p_payment_id AND d.dispute_id = p_dispute_id
    RETURNING opening INTO v_opening;
    UPDATE fleet.ledger_balances b SET dispute_open = b.dispute_open + 1
    WHERE b.book_id = p_payment_id AND b.chain_id = v_route.chain_id AND b.token = v_route.token;
    RETURN v_opening;
END $$;

-- How many disputes stay open. p_refund: the buyer's part of what is disputed, whole tokens. Errors: FL004 if it is not open.
CREATE OR REPLACE FUNCTION fleet.close_dispute(
    p_payment_id uuid, p_dispute_id text, p_outcome text, p_refund numeric, p_release_due boolean) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_remaining integer;
BEGIN
    UPDATE fleet.ledger_balances b SET dispute_open = b.dispute_open - 1
    FROM fleet.payment_routes r
    WHERE r.payment_id = p_payment_id AND b.book_id = r.payment_id AND b.chain_id = r.chain_id AND b.token = r.token
      AND b.dispute_open > 0
    RETURNING b.dispute_open INTO v_remaining;
    UPDATE fleet.payment_disputes d
    SET state = 'closed', outcome = p_outcome, refund_amount = p_refund, closed_at = clock_timestamp(), held_reason = NULL,
        release_due = p_release_due
    WHERE d.payment_id = p_payment_id AND d.dispute_id = p_dispute_id AND d.state = 'open';
    IF NOT FOUND OR v_remaining IS NULL THEN
        RAISE EXCEPTION 'dispute % of payment % is not open', p_dispute_id, p_payment_id USING ERRCODE = 'FL004';
    END IF;
    RETURN v_remaining;
END $$;
