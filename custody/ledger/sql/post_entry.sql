-- post_entry(): one movement into the ledger (design §4), p_amount > 0 in whole tokens: debits one account and credits
-- another, within one book and one asset: look, check, move the balance, append the entry, ask for its mirror.
-- post_entry() and post_entries() are the only ways in.
--
-- Errors (SQLSTATE): FL001 the key was used for another content; FL002 this role may not post this movement;
-- FL003 a dispute is open (L4); FL004 an argument is missing or wrong; 23514 an account would go below zero or
-- promises would exceed the treasury (L3); the constraint's name says which.

CREATE OR REPLACE FUNCTION fleet.post_entry(
    p_book_kind text, p_book_id uuid, p_chain_id bigint, p_token text,
    p_entry_type public.funds_ledger_entry_type, p_reason text, p_debit text, p_credit text, p_amount numeric,
    p_idempotency_key text, p_debit_address text DEFAULT NULL, p_credit_address text DEFAULT NULL,
    p_fact_id uuid DEFAULT NULL, p_instruction_id uuid DEFAULT NULL, p_reverses_entry_id uuid DEFAULT NULL,
    p_evidence jsonb DEFAULT '{}')
RETURNS TABLE (entry_id uuid, is_new boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v fleet.posting;
    v_needs_instruction boolean;
    v_is_opened boolean := false;
    v_entry_id uuid := uuidv7();
    v_created_at timestamptz := clock_timestamp();
    v_tx_id bigint := pg_current_xact_id()::text::bigint;
    v_hash bytea;
    v_moves_epoch boolean;
BEGIN
    v := ROW(1, p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type, p_reason, p_debit, p_credit, p_amount,
             p_idempotency_key, p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_evidence,
             fleet.entry_content_hash(
                 p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type::text, p_reason, p_debit, p_credit, p_amount,
                 p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_idempotency_key),
             NULL, NULL, false, false, true, true, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    LOOP
        -- The same look as look_up(), for one entry and without what only an insert needs.
        SELECT t.symbol, t.decimals, r.poster_role IS NOT NULL, coalesce(r.reverses, false),
               NOT coalesce(r.needs_fact, false) OR coalesce(
                   f.chain_id = p_chain_id AND f.token = p_token AND f.live = NOT r.reverses
                   AND (f.direction <> 'inbound' OR f.payment_id = p_book_id), false),
               coalesce(r.needs_instruction, false),
               b.book_kind, b.is_primary, b.dispute_open, b.seq, b.head_hash, b.release_epoch, e.id, e.content_hash
        INTO v.symbol, v.decimals, v.is_allowed, v.reverses, v.fact_fits, v_needs_instruction,
             v.balance_kind, v.is_primary, v.dispute_open, v.seq, v.head_hash, v.release_epoch, v.standing_id, v.standing_hash
        FROM fleet.tokens t
        LEFT JOIN fleet.posting_rules r ON r.book_kind = p_book_kind AND r.entry_type = p_entry_type AND r.reason = p_reason
            AND r.debit = p_debit AND r.credit = p_credit AND r.poster_role = session_user
        LEFT JOIN fleet.ledger_balances b ON b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token
        LEFT JOIN public.funds_ledger_entries e ON e.book_id = p_book_id AND e.idempotency_key = p_idempotency_key
        LEFT JOIN fleet.chain_facts f ON f.id = p_fact_id
        WHERE t.chain_id = p_chain_id AND t.token = p_token;
        IF v.balance_kind IS NULL AND NOT v_is_opened THEN
            PERFORM fleet.open_book(p_book_kind, p_book_id, p_chain_id, p_token);
            v_is_opened := true;
            CONTINUE;
        END IF;
        IF v_needs_instruction THEN
            v.instruction_fits := fleet.instruction_fits(p_instruction_id, p_book_id, p_chain_id, p_token);
        END IF;
        IF p_credit = 'releasing' THEN
            SELECT p.status || '/' || coalesce(p.escrow_state::text, 'no escrow') INTO v.payment_state
            FROM public.payments p WHERE p.id = p_book_id;
        END IF;
        IF p_reverses_entry_id IS NOT NULL THEN
            v.reversal_fits := fleet.reversal_fits(
                p_reverses_entry_id, p_book_id, p_chain_id, p_token, p_debit, p_credit, p_amount, p_debit_address,
                p_credit_address, p_fact_id);
        END IF;
        IF NOT fleet.is_to_be_written(v) THEN
            RETURN QUERY SELECT v.standing_id, false;
            RETURN;
        END IF;
        v_hash := fleet.entry_hash(v.head_hash, v.seq + 1, v_entry_id, v.content_hash, p_evidence, session_user::text,
                                   v_created_at, v_tx_id);
        v_moves_epoch := fleet.moves_epoch(p_entry_type, p_debit, p_credit, v.reverses);
        UPDATE fleet.ledger_balances SET
            destination = CASE 'destination' WHEN p_debit THEN destination + p_amount WHEN p_credit THEN destination - p_amount ELSE destination END,
            treasury = CASE 'treasury' WHEN p_debit THEN treasury + p_amount WHEN p_credit THEN treasury - p_amount ELSE treasury END,
            transfer_cost = CASE 'transfer_cost' WHEN p_debit THEN transfer_cost + p_amount WHEN p_credit THEN transfer_cost - p_amount ELSE transfer_cost END,
            loss = CASE 'loss' WHEN p_debit THEN loss + p_amount WHEN p_credit THEN loss - p_amount ELSE loss END,
            gas_payer = CASE 'gas_payer' WHEN p_debit THEN gas_payer + p_amount WHEN p_credit THEN gas_payer - p_amount ELSE gas_payer END,
            gas_float = CASE 'gas_float' WHEN p_debit THEN gas_float + p_amount WHEN p_credit THEN gas_float - p_amount ELSE gas_float END,
            treasury_house = CASE 'treasury_house' WHEN p_debit THEN treasury_house + p_amount WHEN p_credit THEN treasury_house - p_amount ELSE treasury_house END,
            gas_spent = CASE 'gas_spent' WHEN p_debit THEN gas_spent + p_amount WHEN p_credit THEN gas_spent - p_amount ELSE gas_spent END,
            in_transit = CASE 'in_transit' WHEN p_debit THEN in_transit + p_amount WHEN p_credit THEN in_transit - p_amount ELSE in_transit END,
            payer_paid = CASE 'payer_paid' WHEN p_debit THEN payer_paid + p_amount WHEN p_credit THEN payer_paid - p_amount ELSE payer_paid END,
            detected = CASE 'detected' WHEN p_debit THEN detected - p_amount WHEN p_credit THEN detected + p_amount ELSE detected END,
            held = CASE 'held' WHEN p_debit THEN held - p_amount WHEN p_credit THEN held + p_amount ELSE held END,
            disputed = CASE 'disputed' WHEN p_debit THEN disputed - p_amount WHEN p_credit THEN disputed + p_amount ELSE disputed END,
            releasing = CASE 'releasing' WHEN p_debit THEN releasing - p_amount WHEN p_credit THEN releasing + p_amount ELSE releasing END,
            refunding = CASE 'refunding' WHEN p_debit THEN refunding - p_amount WHEN p_credit THEN refunding + p_amount ELSE refunding END,
            paying_fees = CASE 'paying_fees' WHEN p_debit THEN paying_fees - p_amount WHEN p_credit THEN paying_fees + p_amount ELSE paying_fees END,
            platform_fees = CASE 'platform_fees' WHEN p_debit THEN platform_fees - p_amount WHEN p_credit THEN platform_fees + p_amount ELSE platform_fees END,
            provider_fees = CASE 'provider_fees' WHEN p_debit THEN provider_fees - p_amount WHEN p_credit THEN provider_fees + p_amount ELSE provider_fees END,
            suspense = CASE 'suspense' WHEN p_debit THEN suspense - p_amount WHEN p_credit THEN suspense + p_amount ELSE suspense END,
            overdraft = CASE 'overdraft' WHEN p_debit THEN overdraft - p_amount WHEN p_credit THEN overdraft + p_amount ELSE overdraft END,
            gas_funding = CASE 'gas_funding' WHEN p_debit THEN gas_funding - p_amount WHEN p_credit THEN gas_funding + p_amount ELSE gas_funding END,
            provider_received = CASE 'provider_received' WHEN p_debit THEN provider_received - p_amount WHEN p_credit THEN provider_received + p_amount ELSE provider_received END,
            release_epoch = release_epoch + v_moves_epoch::integer,
            seq = seq + 1,
            head_hash = v_hash,
            updated_at = v_created_at
        WHERE book_id = p_book_id AND chain_id = p_chain_id AND token = p_token
          AND seq = v.seq AND dispute_open = v.dispute_open;
        EXIT WHEN FOUND;
        -- The book moved on between the look and the lock: lock it, and look again.
        PERFORM FROM fleet.ledger_balances b
        WHERE b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token FOR UPDATE;
    END LOOP;
    IF v_moves_epoch AND p_instruction_id IS NOT NULL THEN
        UPDATE fleet.release_instructions i SET release_epoch = v.release_epoch + 1
        WHERE i.id = p_instruction_id AND i.release_epoch = v.release_epoch;
    END IF;
    INSERT INTO public.funds_ledger_entries (
        id, payment_id, purchase_request_ref_kind, purchase_request_id, purchase_request_external_ref,
        seller_offer_ref_kind, seller_offer_id, seller_offer_external_ref, seller_ref_kind, seller_id, seller_external_ref,
        entry_type, amount, currency, idempotency_key, metadata, created_at, book_kind, book_id, chain_id, token, reason,
        debit, credit, debit_address, credit_address, poster_role, fact_id, instruction_id, reverses_entry_id,
        book_seq, content_hash, prev_hash, entry_hash, tx_id)
    SELECT
        v_entry_id, p.id, p.purchase_request_ref_kind, p.purchase_request_id, p.purchase_request_external_ref,
        p.seller_offer_ref_kind, p.seller_offer_id, p.seller_offer_external_ref, p.seller_ref_kind, p.seller_id,
        p.seller_external_ref, p_entry_type, p_amount, v.symbol, p_idempotency_key, p_evidence, v_created_at, p_book_kind,
        p_book_id, p_chain_id, p_token, p_reason, p_debit, p_credit, p_debit_address, p_credit_address, session_user,
        p_fact_id, p_instruction_id, p_reverses_entry_id, v.seq + 1, v.content_hash, v.head_hash, v_hash, v_tx_id
    FROM (SELECT 1) AS once LEFT JOIN public.payments p ON p.id = p_book_id AND p_book_kind = 'payment';
    INSERT INTO fleet.outbox (queue, collection, document_id) VALUES ('mirror', 'fundsledgerentries', v_entry_id);
    entry_id := v_entry_id;
    is_new := true;
    RETURN NEXT;
END $$;
