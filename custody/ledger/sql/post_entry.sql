-- post_entry(): one movement into the ledger (design §4), p_amount > 0 in whole tokens: debits one account and credits
-- another, within one book and one asset. post_entry() and post_entries() are the only ways in.
--
-- An entry between a payment's own accounts takes two statements: look, judge and move the balance in one, append the
-- entry. The mirror follows the entries themselves (custody/store/sql/entry_mirroring.sql). What the two do not take (a
-- house book, fees, a reversal, an open dispute, a book's first entry, lost coins, a repeat, a refusal) goes to
-- post_entries(), which says why not. Kept small on purpose: PostgreSQL prepares each expression again for every
-- execution, and fourteen columns more would cost a fifth of a whole entry.
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
    v_entry_id uuid := uuidv7();
    v_created_at timestamptz := clock_timestamp();
    v_tx_id bigint := pg_current_xact_id()::text::bigint;
    v_content_hash bytea := fleet.entry_content_hash(
        p_book_kind, p_book_id, p_chain_id, p_token, p_entry_type::text, p_reason, p_debit, p_credit, p_amount,
        p_debit_address, p_credit_address, p_fact_id, p_instruction_id, p_reverses_entry_id, p_idempotency_key);
    v_prev_hash bytea;
    v_entry_hash bytea;
    v_seq bigint;
    v_old_epoch bigint;
    v_new_epoch bigint;
    v_symbol text;
BEGIN
    -- If another's entry came between the look and the lock, b.seq is not the one looked at: nothing is written, the row
    -- stays locked, and the second look is the last that is needed.
    FOR look IN 1 .. 2 LOOP
        UPDATE fleet.ledger_balances b SET
            destination = CASE 'destination' WHEN p_debit THEN b.destination + p_amount WHEN p_credit THEN b.destination - p_amount ELSE b.destination END,
            treasury = CASE 'treasury' WHEN p_debit THEN b.treasury + p_amount WHEN p_credit THEN b.treasury - p_amount ELSE b.treasury END,
            detected = CASE 'detected' WHEN p_debit THEN b.detected - p_amount WHEN p_credit THEN b.detected + p_amount ELSE b.detected END,
            held = CASE 'held' WHEN p_debit THEN b.held - p_amount WHEN p_credit THEN b.held + p_amount ELSE b.held END,
            disputed = CASE 'disputed' WHEN p_debit THEN b.disputed - p_amount WHEN p_credit THEN b.disputed + p_amount ELSE b.disputed END,
            releasing = CASE 'releasing' WHEN p_debit THEN b.releasing - p_amount WHEN p_credit THEN b.releasing + p_amount ELSE b.releasing END,
            refunding = CASE 'refunding' WHEN p_debit THEN b.refunding - p_amount WHEN p_credit THEN b.refunding + p_amount ELSE b.refunding END,
            suspense = CASE 'suspense' WHEN p_debit THEN b.suspense - p_amount WHEN p_credit THEN b.suspense + p_amount ELSE b.suspense END,
            release_epoch = b.release_epoch + fleet.moves_epoch(p_entry_type, p_debit, p_credit, false)::integer,
            seq = b.seq + 1,
            head_hash = fleet.entry_hash(b.head_hash, b.seq + 1, v_entry_id, v_content_hash, p_evidence, session_user::text,
                                         v_created_at, v_tx_id),
            updated_at = v_created_at
        FROM fleet.tokens t
        CROSS JOIN fleet.posting_rules r
        LEFT JOIN fleet.chain_facts f ON f.id = p_fact_id
        WHERE b.book_id = p_book_id AND b.chain_id = p_chain_id AND b.token = p_token AND b.book_kind = p_book_kind
          AND b.seq = (SELECT looked.seq FROM fleet.ledger_balances looked
                       WHERE looked.book_id = p_book_id AND looked.chain_id = p_chain_id AND looked.token = p_token)
          AND p_debit IN ('destination', 'treasury', 'detected', 'held', 'disputed', 'releasing', 'refunding', 'suspense')
          AND p_credit IN ('destination', 'treasury', 'detected', 'held', 'disputed', 'releasing', 'refunding', 'suspense')
          AND p_book_kind = 'payment' AND p_reverses_entry_id IS NULL AND b.dispute_open = 0 AND b.overdraft = 0
          -- What is_to_be_written() asks of such an entry, in its order.
          AND p_idempotency_key IS NOT NULL AND p_evidence IS NOT NULL
          AND t.chain_id = p_chain_id AND t.token = p_token
          AND p_amount > 0 AND p_amount < 'Infinity' AND scale(trim_scale(p_amount)) <= t.decimals
          AND (p_debit IN ('destination', 'treasury')) = (p_debit_address IS NOT NULL)
          AND (p_credit IN ('destination', 'treasury')) = (p_credit_address IS NOT NULL)
          AND NOT EXISTS (SELECT FROM public.funds_ledger_entries e
                          WHERE e.book_id = p_book_id AND e.idempotency_key = p_idempotency_key)
          AND r.book_kind = p_book_kind AND r.entry_type = p_entry_type AND r.reason = p_reason
          AND r.debit = p_debit AND r.credit = p_credit AND r.poster_role = session_user AND NOT r.reverses
          AND (NOT r.needs_fact OR (f.chain_id = p_chain_id AND f.token = p_token AND f.live
                                    AND (f.direction <> 'inbound' OR f.payment_id = p_book_id)))
          AND (NOT r.needs_instruction OR fleet.instruction_fits(p_instruction_id, p_book_id, p_chain_id, p_token))
          AND (p_credit <> 'releasing' OR fleet.is_releasable(p_book_id))
        RETURNING new.seq, old.head_hash, new.head_hash, old.release_epoch, new.release_epoch, t.symbol
        INTO v_seq, v_prev_hash, v_entry_hash, v_old_epoch, v_new_epoch, v_symbol;
        CONTINUE WHEN NOT FOUND;
        IF v_new_epoch > v_old_epoch AND p_instruction_id IS NOT NULL THEN
            UPDATE fleet.release_instructions i SET release_epoch = v_new_epoch
            WHERE i.id = p_instruction_id AND i.release_epoch = v_old_epoch;
        END IF;
        INSERT INTO public.funds_ledger_entries (
            id, payment_id, purchase_request_ref_kind, purchase_request_id, purchase_request_external_ref,
            seller_offer_ref_kind, seller_offer_id, seller_offer_external_ref, seller_ref_kind, seller_id,
            seller_external_ref, entry_type, amount, currency, idempotency_key, metadata, created_at, book_kind, book_id,
            chain_id, token, reason, debit, credit, debit_address, credit_address, poster_role, fact_id, instruction_id,
            reverses_entry_id, book_seq, content_hash, prev_hash, entry_hash, tx_id)
        SELECT
            v_entry_id, p.id, p.purchase_request_ref_kind, p.purchase_request_id, p.purchase_request_external_ref,
            p.seller_offer_ref_kind, p.seller_offer_id, p.seller_offer_external_ref, p.seller_ref_kind, p.seller_id,
            p.seller_external_ref, p_entry_type, p_amount, v_symbol, p_idempotency_key, p_evidence, v_created_at, p_book_kind,
            p_book_id, p_chain_id, p_token, p_reason, p_debit, p_credit, p_debit_address, p_credit_address, session_user,
            p_fact_id, p_instruction_id, NULL, v_seq, v_content_hash, v_prev_hash, v_entry_hash, v_tx_id
        FROM public.payments p WHERE p.id = p_book_id
        RETURNING id INTO STRICT entry_id;
        is_new := true;
        RETURN NEXT;
        RETURN;
    END LOOP;
    IF p_evidence IS NULL THEN
        RAISE EXCEPTION 'post_entry: evidence is NULL; {} says that there is none' USING ERRCODE = 'FL004';
    END IF;
    RETURN QUERY SELECT e.entry_id, e.is_new FROM fleet.post_entries(jsonb_build_array(jsonb_build_object(
        'book_kind', p_book_kind, 'book_id', p_book_id, 'chain_id', p_chain_id, 'token', p_token,
        'entry_type', p_entry_type, 'reason', p_reason, 'debit', p_debit, 'credit', p_credit, 'amount', p_amount,
        'idempotency_key', p_idempotency_key, 'debit_address', p_debit_address, 'credit_address', p_credit_address,
        'fact_id', p_fact_id, 'instruction_id', p_instruction_id, 'reverses_entry_id', p_reverses_entry_id,
        'evidence', p_evidence))) AS e;
END $$;
