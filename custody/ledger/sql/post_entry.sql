-- post_entry(): the only way into the ledger (design §4). One movement of p_amount > 0 in the token's own units of
-- account: debits one account and credits another, within one book and one asset, in one statement flow:
-- lock the balance row, answer a repeat, check the rule, move the balance, append the entry.
--
-- Errors (SQLSTATE): FL001 the key was used for another content; FL002 this role may not post this movement;
-- FL003 a dispute is open (L4); FL004 an argument is missing or wrong; 23514 an account would go below zero or
-- promises would exceed the treasury (L3); the constraint's name says which.

CREATE OR REPLACE FUNCTION fleet.post_entry(
    p_book_kind text, p_book_id uuid, p_chain_id bigint, p_token text,
    p_entry_type public.funds_ledger_entry_type, p_reason text, p_debit text, p_credit text, p_amount numeric,
    p_idempotency_key text,
    p_debit_address text DEFAULT NULL, p_credit_address text DEFAULT NULL,
    p_fact_id uuid DEFAULT NULL, p_instruction_id uuid DEFAULT NULL, p_reverses_entry_id uuid DEFAULT NULL,
    p_evidence jsonb DEFAULT '{}')
RETURNS TABLE (entry_id uuid, is_new boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held_at_address CONSTANT text[] := ARRAY[
        'destination', 'treasury', 'gas_payer', 'gas_float', 'treasury_house', 'in_transit'];
    v_balance fleet.ledger_balances;
    v_existing record;
    v_rule fleet.posting_rules;
    v_payment record;
    v_reversed record;
    v_symbol text;
    v_decimals smallint;
    v_content bytea;
    v_entry_id uuid := uuidv7();
    v_created_at timestamptz := clock_timestamp();
    v_tx_id bigint := pg_current_xact_id()::text::bigint;
    v_moves_epoch boolean;
BEGIN
    IF num_nulls(p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type, p_reason, p_debit, p_credit, p_amount,
                 p_idempotency_key, p_evidence) > 0 THEN
        RAISE EXCEPTION 'post_entry: an argument is NULL; only addresses, fact, instruction and reversal may be'
            USING ERRCODE = 'FL004';
    END IF;
    SELECT t.symbol, t.decimals INTO v_symbol, v_decimals
    FROM fleet.tokens t WHERE t.chain_id = p_chain_id AND t.token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'post_entry: no token % on chain %; add it to the chains file first', p_token, p_chain_id
            USING ERRCODE = 'FL004';
    END IF;
    -- NaN is above zero for PostgreSQL and passes every CHECK; one would spoil a book for good.
    IF p_amount <= 0 OR p_amount IN ('NaN', 'Infinity') OR scale(trim_scale(p_amount)) > v_decimals THEN
        RAISE EXCEPTION 'post_entry: amount % of % must be above zero with at most % decimals', p_amount, v_symbol, v_decimals
            USING ERRCODE = 'FL004';
    END IF;
    IF (p_debit = ANY (held_at_address)) <> (p_debit_address IS NOT NULL)
       OR (p_credit = ANY (held_at_address)) <> (p_credit_address IS NOT NULL) THEN
        RAISE EXCEPTION 'post_entry: % / % need the address each coin account sits at, and no other', p_debit, p_credit
            USING ERRCODE = 'FL004';
    END IF;
    v_content := fleet.entry_content_hash(
        p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type::text, p_reason, p_debit, p_credit, p_amount,
        p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_idempotency_key);

    SELECT * INTO v_balance FROM fleet.ledger_balances b
    WHERE b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token FOR UPDATE;
    IF NOT FOUND THEN
        IF p_book_kind = 'payment' AND NOT EXISTS (SELECT FROM public.payments p WHERE p.id = p_book_id)
           OR p_book_kind = 'house' AND NOT EXISTS (SELECT FROM fleet.house_accounts h WHERE h.id = p_book_id)
           OR p_book_kind NOT IN ('payment', 'house') THEN
            RAISE EXCEPTION 'post_entry: there is no % book %', p_book_kind, p_book_id USING ERRCODE = 'FL004';
        END IF;
        INSERT INTO fleet.ledger_balances (book_kind, book_id, chain_id, token, is_primary)
        VALUES (p_book_kind, p_book_id, p_chain_id, p_token, p_book_kind = 'house' OR EXISTS (
            SELECT FROM fleet.payment_routes r
            WHERE r.payment_id = p_book_id AND r.chain_id = p_chain_id AND r.token = p_token))
        ON CONFLICT DO NOTHING;
        SELECT * INTO STRICT v_balance FROM fleet.ledger_balances b
        WHERE b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token FOR UPDATE;
    END IF;
    IF v_balance.book_kind <> p_book_kind THEN
        RAISE EXCEPTION 'post_entry: book % is a % book', p_book_id, v_balance.book_kind USING ERRCODE = 'FL004';
    END IF;

    SELECT e.id, e.content_hash INTO v_existing FROM public.funds_ledger_entries e
    WHERE e.book_id = p_book_id AND e.idempotency_key = p_idempotency_key;
    IF FOUND THEN
        IF v_existing.content_hash = v_content THEN
            RETURN QUERY SELECT v_existing.id, false;
            RETURN;
        END IF;
        RAISE EXCEPTION 'post_entry: key % of book % already names entry % with content %; refused content %',
            p_idempotency_key, p_book_id, v_existing.id, encode(v_existing.content_hash, 'hex'), encode(v_content, 'hex')
            USING ERRCODE = 'FL001';
    END IF;

    SELECT * INTO v_rule FROM fleet.posting_rules r
    WHERE r.book_kind = p_book_kind AND r.entry_type = p_entry_type AND r.reason = p_reason
      AND r.debit = p_debit AND r.credit = p_credit AND r.poster_role = session_user;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'post_entry: % may not post % : % % / % in a % book', session_user, p_entry_type, p_reason,
            p_debit, p_credit, p_book_kind USING ERRCODE = 'FL002';
    END IF;
    IF v_rule.needs_fact AND NOT EXISTS (
        SELECT FROM fleet.chain_facts f
        WHERE f.id = p_fact_id AND f.chain_id = p_chain_id AND f.token = p_token AND f.live = NOT v_rule.reverses
          AND (f.direction <> 'inbound' OR f.payment_id = p_book_id)) THEN
        RAISE EXCEPTION 'post_entry: % : % needs a % chain fact of this book and asset; % is none', p_entry_type, p_reason,
            CASE WHEN v_rule.reverses THEN 'dead' ELSE 'live' END, p_fact_id USING ERRCODE = 'FL002';
    END IF;
    IF v_rule.needs_instruction AND NOT EXISTS (
        SELECT FROM fleet.release_instructions i
        WHERE i.id = p_instruction_id AND i.payment_id = p_book_id AND i.chain_id = p_chain_id AND i.token = p_token) THEN
        RAISE EXCEPTION 'post_entry: % : % needs a release instruction of this payment; % is none', p_entry_type, p_reason,
            p_instruction_id USING ERRCODE = 'FL002';
    END IF;
    IF v_rule.reverses THEN
        SELECT e.debit, e.credit, e.amount, e.book_id, e.chain_id, e.token, e.debit_address, e.credit_address, e.fact_id,
               e.reverses_entry_id INTO v_reversed
        FROM public.funds_ledger_entries e WHERE e.id = p_reverses_entry_id;
        IF NOT FOUND OR (v_reversed.debit, v_reversed.credit, v_reversed.amount, v_reversed.book_id, v_reversed.chain_id,
                         v_reversed.token, v_reversed.debit_address, v_reversed.credit_address, v_reversed.fact_id)
              IS DISTINCT FROM (p_credit, p_debit, p_amount, p_book_id, p_chain_id, p_token, p_credit_address,
                                p_debit_address, p_fact_id)
           OR v_reversed.reverses_entry_id IS NOT NULL
           OR EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.reverses_entry_id = p_reverses_entry_id) THEN
            RAISE EXCEPTION 'post_entry: a reversal must be the exact reverse of one entry of the same fact that is no reversal and not reversed yet; % is not',
                p_reverses_entry_id USING ERRCODE = 'FL002';
        END IF;
    ELSIF p_reverses_entry_id IS NOT NULL THEN
        RAISE EXCEPTION 'post_entry: % : % reverses nothing', p_entry_type, p_reason USING ERRCODE = 'FL002';
    END IF;

    -- L4: a dispute is a state; new promises wait for it.
    IF v_balance.dispute_open > 0 AND (
        p_credit = 'releasing' OR (p_credit = 'refunding' AND NOT p_evidence ? 'dispute_resolution_id')
        OR (p_credit = 'held' AND p_entry_type IN ('hold', 'release', 'refund', 'dispute_hold'))) THEN
        RAISE EXCEPTION 'post_entry: % dispute(s) open on book %; % / % waits until resolved', v_balance.dispute_open,
            p_book_id, p_debit, p_credit USING ERRCODE = 'FL003';
    END IF;

    -- L18: the epoch rises only when something else than an instruction itself changes what it was judged on.
    v_moves_epoch := p_credit IN ('treasury', 'releasing', 'refunding') OR p_debit = 'held'
                     OR p_entry_type = 'dispute_hold' OR v_rule.reverses;
    UPDATE fleet.ledger_balances SET
        destination = destination + CASE WHEN p_debit = 'destination' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'destination' THEN p_amount ELSE 0 END,
        treasury = treasury + CASE WHEN p_debit = 'treasury' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'treasury' THEN p_amount ELSE 0 END,
        transfer_cost = transfer_cost + CASE WHEN p_debit = 'transfer_cost' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'transfer_cost' THEN p_amount ELSE 0 END,
        loss = loss + CASE WHEN p_debit = 'loss' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'loss' THEN p_amount ELSE 0 END,
        gas_payer = gas_payer + CASE WHEN p_debit = 'gas_payer' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'gas_payer' THEN p_amount ELSE 0 END,
        gas_float = gas_float + CASE WHEN p_debit = 'gas_float' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'gas_float' THEN p_amount ELSE 0 END,
        treasury_house = treasury_house + CASE WHEN p_debit = 'treasury_house' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'treasury_house' THEN p_amount ELSE 0 END,
        gas_spent = gas_spent + CASE WHEN p_debit = 'gas_spent' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'gas_spent' THEN p_amount ELSE 0 END,
        in_transit = in_transit + CASE WHEN p_debit = 'in_transit' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'in_transit' THEN p_amount ELSE 0 END,
        payer_paid = payer_paid + CASE WHEN p_debit = 'payer_paid' THEN p_amount ELSE 0 END - CASE WHEN p_credit = 'payer_paid' THEN p_amount ELSE 0 END,
        detected = detected - CASE WHEN p_debit = 'detected' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'detected' THEN p_amount ELSE 0 END,
        held = held - CASE WHEN p_debit = 'held' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'held' THEN p_amount ELSE 0 END,
        disputed = disputed - CASE WHEN p_debit = 'disputed' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'disputed' THEN p_amount ELSE 0 END,
        releasing = releasing - CASE WHEN p_debit = 'releasing' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'releasing' THEN p_amount ELSE 0 END,
        refunding = refunding - CASE WHEN p_debit = 'refunding' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'refunding' THEN p_amount ELSE 0 END,
        paying_fees = paying_fees - CASE WHEN p_debit = 'paying_fees' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'paying_fees' THEN p_amount ELSE 0 END,
        platform_fees = platform_fees - CASE WHEN p_debit = 'platform_fees' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'platform_fees' THEN p_amount ELSE 0 END,
        provider_fees = provider_fees - CASE WHEN p_debit = 'provider_fees' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'provider_fees' THEN p_amount ELSE 0 END,
        suspense = suspense - CASE WHEN p_debit = 'suspense' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'suspense' THEN p_amount ELSE 0 END,
        overdraft = overdraft - CASE WHEN p_debit = 'overdraft' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'overdraft' THEN p_amount ELSE 0 END,
        gas_funding = gas_funding - CASE WHEN p_debit = 'gas_funding' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'gas_funding' THEN p_amount ELSE 0 END,
        provider_received = provider_received - CASE WHEN p_debit = 'provider_received' THEN p_amount ELSE 0 END + CASE WHEN p_credit = 'provider_received' THEN p_amount ELSE 0 END,
        release_epoch = release_epoch + CASE WHEN v_moves_epoch THEN 1 ELSE 0 END,
        seq = seq + 1,
        head_hash = fleet.entry_hash(head_hash, seq + 1, v_entry_id, v_content, p_evidence, session_user::text,
                                     v_created_at, v_tx_id),
        updated_at = v_created_at
    WHERE book_id = p_book_id AND chain_id = p_chain_id AND token = p_token;
    IF v_moves_epoch AND p_instruction_id IS NOT NULL THEN
        UPDATE fleet.release_instructions i SET release_epoch = v_balance.release_epoch + 1
        WHERE i.id = p_instruction_id AND i.release_epoch = v_balance.release_epoch;
    END IF;

    IF p_book_kind = 'payment' THEN
        SELECT p.* INTO v_payment FROM public.payments p WHERE p.id = p_book_id;
    ELSE
        SELECT NULL::uuid AS id, NULL::public.ref_kind AS purchase_request_ref_kind, NULL::uuid AS purchase_request_id,
               NULL::text AS purchase_request_external_ref, NULL::public.ref_kind AS seller_offer_ref_kind,
               NULL::uuid AS seller_offer_id, NULL::text AS seller_offer_external_ref,
               NULL::public.ref_kind AS seller_ref_kind, NULL::uuid AS seller_id, NULL::text AS seller_external_ref
        INTO v_payment;
    END IF;
    INSERT INTO public.funds_ledger_entries (
        id, payment_id, purchase_request_ref_kind, purchase_request_id, purchase_request_external_ref,
        seller_offer_ref_kind, seller_offer_id, seller_offer_external_ref, seller_ref_kind, seller_id, seller_external_ref,
        entry_type, amount, currency, idempotency_key, metadata, created_at, book_kind, book_id, chain_id, token, reason,
        debit, credit, debit_address, credit_address, poster_role, fact_id, instruction_id, reverses_entry_id,
        book_seq, content_hash, prev_hash, entry_hash, tx_id)
    VALUES (
        v_entry_id, v_payment.id, v_payment.purchase_request_ref_kind, v_payment.purchase_request_id,
        v_payment.purchase_request_external_ref, v_payment.seller_offer_ref_kind, v_payment.seller_offer_id,
        v_payment.seller_offer_external_ref, v_payment.seller_ref_kind, v_payment.seller_id, v_payment.seller_external_ref,
        p_entry_type, p_amount, v_symbol, p_idempotency_key, p_evidence, v_created_at, p_book_kind, p_book_id, p_chain_id,
        p_token, p_reason, p_debit, p_credit, p_debit_address, p_credit_address, session_user, p_fact_id, p_instruction_id,
        p_reverses_entry_id, v_balance.seq + 1, v_content, v_balance.head_hash,
        fleet.entry_hash(v_balance.head_hash, v_balance.seq + 1, v_entry_id, v_content, p_evidence, session_user::text,
                         v_created_at, v_tx_id),
        v_tx_id);
    INSERT INTO fleet.outbox (queue, collection, document_id) VALUES ('mirror', 'fundsledgerentries', v_entry_id);
    RETURN QUERY SELECT v_entry_id, true;
END $$;
