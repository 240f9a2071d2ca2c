-- What post_entry() and post_entries() share: one look at everything an entry touches, and the rules it must pass.

CREATE OR REPLACE FUNCTION fleet.instruction_fits(
    p_instruction_id uuid, p_book_id uuid, p_chain_id bigint, p_token text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM fleet.release_instructions i
        WHERE i.id = p_instruction_id AND i.chain_id = p_chain_id AND i.token = p_token
          AND (p_book_id IN (i.payment_id, i.house_id)
               -- The house's own coins come to the book of the treasury that they are moved to (R22).
               OR i.house_id IS NOT NULL AND EXISTS (
                   SELECT FROM fleet.house_accounts h
                   WHERE h.id = p_book_id AND h.chain_id = i.chain_id AND h.address = i.recipient AND h.kind = 'treasury')));
END $$;

CREATE OR REPLACE FUNCTION fleet.is_releasable(p_payment_id uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM public.payments p
                   WHERE p.id = p_payment_id AND p.status = 'confirmed' AND p.escrow_state = 'releasable');
END $$;

-- The exact reverse of an entry that is no reversal and not reversed yet.
CREATE OR REPLACE FUNCTION fleet.reversal_fits(
    p_reverses_entry_id uuid, p_book_id uuid, p_chain_id bigint, p_token text, p_debit text, p_credit text,
    p_amount numeric, p_debit_address text, p_credit_address text, p_fact_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM public.funds_ledger_entries e
        WHERE e.id = p_reverses_entry_id AND e.reverses_entry_id IS NULL
          AND (e.debit, e.credit, e.amount, e.book_id, e.chain_id, e.token) =
              (p_credit, p_debit, p_amount, p_book_id, p_chain_id, p_token)
          AND (e.debit_address, e.credit_address, e.fact_id) IS NOT DISTINCT FROM
              (p_credit_address, p_debit_address, p_fact_id))
      AND NOT EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.reverses_entry_id = p_reverses_entry_id);
END $$;

-- A single expression on purpose: PostgreSQL writes it into the caller's statement, for one entry as for 500.
CREATE OR REPLACE FUNCTION fleet.look_up(
    p_place integer, p_book_kind text, p_book_id uuid, p_chain_id bigint, p_token text,
    p_entry_type public.funds_ledger_entry_type, p_reason text, p_debit text, p_credit text, p_amount numeric,
    p_idempotency_key text, p_debit_address text, p_credit_address text, p_fact_id uuid, p_instruction_id uuid,
    p_reverses_entry_id uuid, p_evidence jsonb) RETURNS SETOF fleet.posting
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT
        p_place, p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type, p_reason, p_debit, p_credit, p_amount,
        p_idempotency_key, p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_evidence,
        fleet.entry_content_hash(
            p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type::text, p_reason, p_debit, p_credit, p_amount,
            p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_idempotency_key),
        t.symbol, t.decimals,
        r.poster_role IS NOT NULL,
        coalesce(r.reverses, false),
        -- L2: the fact is of this book and asset; a reversal needs it dead, everything else alive (L20).
        NOT coalesce(r.needs_fact, false) OR coalesce(
            f.chain_id = p_chain_id AND f.token = p_token AND f.live = NOT r.reverses
            AND (f.direction <> 'inbound' OR f.payment_id = p_book_id), false),
        NOT coalesce(r.needs_instruction, false)
            OR fleet.instruction_fits(p_instruction_id, p_book_id, p_chain_id, p_token),
        p_reverses_entry_id IS NULL OR fleet.reversal_fits(
            p_reverses_entry_id, p_book_id, p_chain_id, p_token, p_debit, p_credit, p_amount, p_debit_address,
            p_credit_address, p_fact_id),
        b.book_kind, b.is_primary, b.dispute_open, b.seq, b.head_hash, b.release_epoch,
        e.id, e.content_hash,
        p.id, p.status || '/' || coalesce(p.escrow_state::text, 'no escrow'), p.purchase_request_ref_kind, p.purchase_request_id, p.purchase_request_external_ref,
        p.seller_offer_ref_kind, p.seller_offer_id, p.seller_offer_external_ref, p.seller_ref_kind, p.seller_id,
        p.seller_external_ref,
        NULL::boolean, NULL::boolean, NULL::uuid, NULL::bigint, NULL::bytea, NULL::bytea
    FROM (SELECT 1) AS once
    LEFT JOIN fleet.tokens t ON t.chain_id = p_chain_id AND t.token = p_token
    LEFT JOIN fleet.posting_rules r ON r.book_kind = p_book_kind AND r.entry_type = p_entry_type AND r.reason = p_reason
        AND r.debit = p_debit AND r.credit = p_credit AND r.poster_role = session_user
    LEFT JOIN fleet.ledger_balances b ON b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token
    LEFT JOIN public.funds_ledger_entries e ON e.book_id = p_book_id AND e.idempotency_key = p_idempotency_key
    LEFT JOIN fleet.chain_facts f ON f.id = p_fact_id
    LEFT JOIN public.payments p ON p.id = p_book_id AND p_book_kind = 'payment'
$$;

-- Refuses what no book may take, in this order: malformed (FL004), its key used for another content (FL001), not this
-- role's movement, or with a fact, instruction or reversed entry that does not fit (FL002), a dispute open (FL003, L4).
-- Returns false for a repeat of an entry that stands, true for one to write.
CREATE OR REPLACE FUNCTION fleet.is_to_be_written(v fleet.posting) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- overdraft counts against the coins of an address (L5, L22)
    held_at_address CONSTANT text[] := ARRAY[
        'destination', 'treasury', 'gas_payer', 'gas_float', 'treasury_house', 'in_transit', 'overdraft'];
BEGIN
    IF num_nulls(v.book_kind, v.book_id, v.chain_id, v.token, v.entry_type, v.reason, v.debit, v.credit, v.amount,
                 v.idempotency_key, v.evidence) > 0 THEN
        RAISE EXCEPTION 'post_entry: an argument is NULL; only addresses, fact, instruction and reversal may be'
            USING ERRCODE = 'FL004';
    END IF;
    IF v.symbol IS NULL THEN
        RAISE EXCEPTION 'post_entry: no token % on chain %; add it to the chains file first', v.token, v.chain_id
            USING ERRCODE = 'FL004';
    END IF;
    -- NaN is above zero for PostgreSQL and passes every CHECK; one would spoil a book for good.
    IF v.amount <= 0 OR v.amount IN ('NaN', 'Infinity') OR scale(trim_scale(v.amount)) > v.decimals THEN
        RAISE EXCEPTION 'post_entry: amount % of % must be above zero with at most % decimals', v.amount, v.symbol, v.decimals
            USING ERRCODE = 'FL004';
    END IF;
    IF (v.debit = ANY (held_at_address)) <> (v.debit_address IS NOT NULL)
       OR (v.credit = ANY (held_at_address)) <> (v.credit_address IS NOT NULL) THEN
        RAISE EXCEPTION 'post_entry: % / % need the address each coin account sits at, and no other', v.debit, v.credit
            USING ERRCODE = 'FL004';
    END IF;
    IF v.balance_kind IS NULL THEN
        RAISE EXCEPTION 'post_entry: there is no % book %', v.book_kind, v.book_id USING ERRCODE = 'FL004';
    END IF;
    IF v.balance_kind <> v.book_kind THEN
        RAISE EXCEPTION 'post_entry: book % is a % book', v.book_id, v.balance_kind USING ERRCODE = 'FL004';
    END IF;
    IF v.standing_id IS NOT NULL THEN
        IF v.standing_hash = v.content_hash THEN
            RETURN false;
        END IF;
        RAISE EXCEPTION 'post_entry: key % of book % already names entry % with content %; refused content %',
            v.idempotency_key, v.book_id, v.standing_id, encode(v.standing_hash, 'hex'), encode(v.content_hash, 'hex')
            USING ERRCODE = 'FL001';
    END IF;
    IF v.is_allowed IS NOT TRUE THEN
        RAISE EXCEPTION 'post_entry: % may not post % : % % / % in a % book', session_user, v.entry_type, v.reason,
            v.debit, v.credit, v.book_kind USING ERRCODE = 'FL002';
    END IF;
    IF NOT v.fact_fits THEN
        RAISE EXCEPTION 'post_entry: % : % needs a % chain fact of this book and asset; % is none', v.entry_type, v.reason,
            CASE WHEN v.reverses THEN 'dead' ELSE 'live' END, v.fact_id USING ERRCODE = 'FL002';
    END IF;
    IF NOT v.instruction_fits THEN
        RAISE EXCEPTION 'post_entry: % : % needs a release instruction of this payment; % is none', v.entry_type, v.reason,
            v.instruction_id USING ERRCODE = 'FL002';
    END IF;
    IF v.reverses <> (v.reverses_entry_id IS NOT NULL) OR NOT v.reversal_fits THEN
        IF NOT v.reverses THEN
            RAISE EXCEPTION 'post_entry: % : % reverses nothing', v.entry_type, v.reason USING ERRCODE = 'FL002';
        END IF;
        RAISE EXCEPTION 'post_entry: a reversal must be the exact reverse of one entry of the same fact that is no reversal and not reversed yet; % is not',
            v.reverses_entry_id USING ERRCODE = 'FL002';
    END IF;
    -- A release is promised to a payment that waits for it, and to no other. What was promised can always be ended (L5).
    IF v.credit = 'releasing' AND v.payment_state IS DISTINCT FROM 'confirmed/releasable' THEN
        RAISE EXCEPTION 'post_entry: payment % is %; a release is promised from confirmed/releasable only', v.book_id,
            coalesce(v.payment_state, 'none') USING ERRCODE = 'FL002';
    END IF;
    -- L3: coins that are lost are not promised. The row's CHECK cannot say so, or it would block the loss itself (L5).
    IF v.credit IN ('releasing', 'refunding', 'paying_fees') AND NOT v.reverses AND EXISTS (
        SELECT FROM fleet.ledger_balances b
        WHERE b.book_id = v.book_id AND b.chain_id = v.chain_id AND b.token = v.token AND b.overdraft > 0
          AND b.releasing + b.refunding + b.paying_fees + v.amount > b.treasury - b.overdraft) THEN
        RAISE EXCEPTION 'post_entry: book % has lost coins; its promises would exceed what is left until the loss is covered or recovered',
            v.book_id USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'ledger_balances',
                            CONSTRAINT = 'ledger_balances_promises_covered';
    END IF;
    -- L4: a dispute is a state; new promises wait for it.
    IF v.dispute_open > 0 AND (
        v.credit = 'releasing' OR (v.credit = 'refunding' AND NOT v.evidence ? 'dispute_resolution_id')
        OR (v.credit = 'held' AND v.entry_type IN ('hold', 'release', 'refund', 'dispute_hold'))) THEN
        RAISE EXCEPTION 'post_entry: % dispute(s) open on book %; % / % waits until resolved', v.dispute_open,
            v.book_id, v.debit, v.credit USING ERRCODE = 'FL003';
    END IF;
    RETURN true;
END $$;

-- L18: the epoch rises only when something else than an instruction itself changes what it was judged on.
CREATE OR REPLACE FUNCTION fleet.moves_epoch(
    entry_type public.funds_ledger_entry_type, debit text, credit text, reverses boolean) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT credit IN ('treasury', 'releasing', 'refunding', 'overdraft') OR debit = 'held' OR entry_type = 'dispute_hold' OR reverses
$$;

-- A book's row is made by its first entry. Makes none for a book that does not exist; the checks then say so.
CREATE OR REPLACE FUNCTION fleet.open_book(p_book_kind text, p_book_id uuid, p_chain_id bigint, p_token text) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO fleet.ledger_balances (book_kind, book_id, chain_id, token, is_primary)
    SELECT p_book_kind, p_book_id, p_chain_id, p_token, p_book_kind = 'house' OR EXISTS (
        SELECT FROM fleet.payment_routes r
        WHERE r.payment_id = p_book_id AND r.chain_id = p_chain_id AND r.token = p_token)
    WHERE EXISTS (SELECT FROM fleet.tokens t WHERE t.chain_id = p_chain_id AND t.token = p_token)
      AND CASE p_book_kind
          WHEN 'payment' THEN EXISTS (SELECT FROM public.payments p WHERE p.id = p_book_id)
          WHEN 'house' THEN EXISTS (SELECT FROM fleet.house_accounts h WHERE h.id = p_book_id)
          ELSE false END
    ON CONFLICT DO NOTHING
$$;
