-- post_entries(): up to 500 movements in the order given, all of them or none, with the meaning and the errors of
-- post_entry() called for each in turn, for a few statements in all. p_entries is a JSON array of objects with the
-- names of post_entry()'s arguments (amounts as strings or numbers, "evidence" {} when missing).
--
-- Locks the books' rows by (payments before houses, book, asset), L17; each entry is judged and chained in the order
-- given. Returns one row an entry, in that order; is_new is false for what stood already, also earlier in the batch.

CREATE OR REPLACE FUNCTION fleet.post_entries(p_entries jsonb)
RETURNS TABLE (place integer, entry_id uuid, is_new boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    most CONSTANT integer := 500;   -- a transaction of this size takes well under a second
    debit_accounts CONSTANT text[] := ARRAY[
        'destination', 'treasury', 'transfer_cost', 'loss', 'gas_payer', 'gas_float', 'treasury_house', 'gas_spent',
        'in_transit', 'payer_paid'];
    v fleet.posting;
    v_all fleet.posting[];          -- by book, then in the order given
    v_count integer := CASE WHEN jsonb_typeof(p_entries) = 'array' THEN jsonb_array_length(p_entries) END;
    v_created_at timestamptz := clock_timestamp();
    v_tx_id bigint := pg_current_xact_id()::text::bigint;
    v_book_id uuid;
    v_chain_id bigint;
    v_token text;
    v_seq bigint;
    v_head bytea;
    v_epoch bigint;
    v_again boolean := false;       -- some book has more than one new entry
    v_twins boolean;                -- some key, or some entry to reverse, comes twice
    v_rule text;
BEGIN
    IF v_count IS NULL OR v_count NOT BETWEEN 1 AND most THEN
        RAISE EXCEPTION 'post_entries: expected an array of 1 to % entries, got %', most,
            coalesce(v_count::text, 'something else') USING ERRCODE = 'FL004';
    END IF;

    PERFORM fleet.open_book(n.book_kind, n.book_id, n.chain_id, n.token)
    FROM (SELECT DISTINCT e.book_kind, e.book_id, e.chain_id, e.token
          FROM jsonb_to_recordset(p_entries) AS e(book_kind text, book_id uuid, chain_id bigint, token text)
          ORDER BY e.book_kind DESC, e.book_id, e.chain_id, e.token) AS n
    WHERE NOT EXISTS (SELECT FROM fleet.ledger_balances b
                      WHERE b.book_id = n.book_id AND b.chain_id = n.chain_id AND b.token = n.token);
    PERFORM FROM fleet.ledger_balances b
    WHERE (b.book_id, b.chain_id, b.token) IN (
        SELECT e.book_id, e.chain_id, e.token
        FROM jsonb_to_recordset(p_entries) AS e(book_id uuid, chain_id bigint, token text))
    ORDER BY b.book_kind DESC, b.book_id, b.chain_id, b.token FOR UPDATE;

    SELECT array_agg(found ORDER BY found.book_id, found.chain_id, found.token, found.place) INTO v_all
    FROM ROWS FROM (jsonb_to_recordset(p_entries) AS (
            book_kind text, book_id uuid, chain_id bigint, token text, entry_type public.funds_ledger_entry_type, reason text,
            debit text, credit text, amount numeric, idempotency_key text, debit_address text, credit_address text,
            fact_id uuid, instruction_id uuid, reverses_entry_id uuid, evidence jsonb)) WITH ORDINALITY AS e,
    LATERAL fleet.look_up(
        e.ordinality::integer, e.book_kind, e.book_id, e.chain_id, e.token, e.entry_type, e.reason, e.debit, e.credit,
        e.amount, e.idempotency_key, e.debit_address, e.credit_address, e.fact_id, e.instruction_id,
        e.reverses_entry_id, coalesce(e.evidence, '{}')) AS found;

    SELECT count(*) > count(DISTINCT (r.book_id, r.idempotency_key))
           OR count(r.reverses_entry_id) > count(DISTINCT r.reverses_entry_id) INTO v_twins
    FROM unnest(v_all) AS r;

    FOR i IN 1 .. v_count LOOP
        v := v_all[i];
        IF v_twins AND v.standing_id IS NULL THEN
            SELECT r.entry_id, r.content_hash INTO v.standing_id, v.standing_hash FROM unnest(v_all[:i - 1]) AS r
            WHERE r.book_id = v.book_id AND r.idempotency_key = v.idempotency_key LIMIT 1;
            v.reversal_fits := v.reversal_fits AND NOT EXISTS (
                SELECT FROM unnest(v_all[:i - 1]) AS r WHERE r.is_new AND r.reverses_entry_id = v.reverses_entry_id);
        END IF;
        v.is_new := fleet.is_to_be_written(v);
        IF NOT v.is_new THEN
            v.entry_id := v.standing_id;
            v_all[i] := v;
            CONTINUE;
        END IF;
        IF v_seq IS NULL OR v.book_id <> v_book_id OR v.chain_id <> v_chain_id OR v.token <> v_token THEN
            v_book_id := v.book_id;
            v_chain_id := v.chain_id;
            v_token := v.token;
            v_seq := v.seq;
            v_head := v.head_hash;
            v_epoch := v.release_epoch;
        ELSE
            v_again := true;
        END IF;
        v_seq := v_seq + 1;
        v.entry_id := uuidv7();
        v.book_seq := v_seq;
        v.prev_hash := v_head;
        v_head := fleet.entry_hash(v_head, v_seq, v.entry_id, v.content_hash, v.evidence, session_user::text, v_created_at,
                                   v_tx_id);
        v.entry_hash := v_head;
        v.moves_epoch := fleet.moves_epoch(v.entry_type, v.debit, v.credit, v.reverses);
        IF v.moves_epoch THEN
            IF v.instruction_id IS NOT NULL THEN
                UPDATE fleet.release_instructions AS ri SET release_epoch = v_epoch + 1
                WHERE ri.id = v.instruction_id AND ri.release_epoch = v_epoch;
            END IF;
            v_epoch := v_epoch + 1;
        END IF;
        v_all[i] := v;
    END LOOP;

    -- The row's CHECK sees where a book ends; this, every step on the way there.
    IF v_again THEN
        SELECT CASE steps.account WHEN 'free' THEN 'ledger_balances_promises_covered'
               ELSE 'ledger_balances_' || steps.account END INTO v_rule
        FROM (
            SELECT r.place, leg.account, leg.opening + sum(leg.change) OVER (
                       PARTITION BY r.book_id, r.chain_id, r.token, leg.account ORDER BY r.place) AS after
            FROM unnest(v_all) AS r
            JOIN fleet.ledger_balances b ON b.book_id = r.book_id AND b.chain_id = r.chain_id AND b.token = r.token
            CROSS JOIN LATERAL (SELECT to_jsonb(b) AS accounts OFFSET 0) AS opened
            CROSS JOIN LATERAL (
                SELECT side.account, (opened.accounts ->> side.account)::numeric,
                       CASE WHEN side.is_debit = (side.account = ANY (debit_accounts)) THEN r.amount ELSE -r.amount END
                FROM (VALUES (r.debit, true), (r.credit, false)) AS side (account, is_debit)
                UNION ALL
                SELECT 'free', b.treasury - b.releasing - b.refunding - b.paying_fees, sum(CASE
                    WHEN side.account = 'treasury' THEN CASE WHEN side.is_debit THEN r.amount ELSE -r.amount END
                    WHEN side.account IN ('releasing', 'refunding', 'paying_fees')
                    THEN CASE WHEN side.is_debit THEN r.amount ELSE -r.amount END ELSE 0 END)
                FROM (VALUES (r.debit, true), (r.credit, false)) AS side (account, is_debit)
            ) AS leg (account, opening, change)
            WHERE r.is_new
        ) AS steps
        WHERE steps.after < 0 ORDER BY steps.place LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'post_entries: an entry of the batch would break %', v_rule
                USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'ledger_balances', CONSTRAINT = v_rule;
        END IF;
    END IF;

    UPDATE fleet.ledger_balances b SET
        destination = b.destination + d.destination,
        treasury = b.treasury + d.treasury,
        transfer_cost = b.transfer_cost + d.transfer_cost,
        loss = b.loss + d.loss,
        gas_payer = b.gas_payer + d.gas_payer,
        gas_float = b.gas_float + d.gas_float,
        treasury_house = b.treasury_house + d.treasury_house,
        gas_spent = b.gas_spent + d.gas_spent,
        in_transit = b.in_transit + d.in_transit,
        payer_paid = b.payer_paid + d.payer_paid,
        detected = b.detected + d.detected,
        held = b.held + d.held,
        disputed = b.disputed + d.disputed,
        releasing = b.releasing + d.releasing,
        refunding = b.refunding + d.refunding,
        paying_fees = b.paying_fees + d.paying_fees,
        platform_fees = b.platform_fees + d.platform_fees,
        provider_fees = b.provider_fees + d.provider_fees,
        suspense = b.suspense + d.suspense,
        overdraft = b.overdraft + d.overdraft,
        gas_funding = b.gas_funding + d.gas_funding,
        provider_received = b.provider_received + d.provider_received,
        release_epoch = b.release_epoch + d.epochs,
        seq = b.seq + d.entries,
        head_hash = d.head_hash,
        updated_at = v_created_at
    FROM (
        SELECT r.book_id, r.chain_id, r.token, count(*) AS entries, count(*) FILTER (WHERE r.moves_epoch) AS epochs,
               (array_agg(r.entry_hash ORDER BY r.book_seq DESC))[1] AS head_hash,
               sum(CASE 'destination' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS destination,
               sum(CASE 'treasury' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS treasury,
               sum(CASE 'transfer_cost' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS transfer_cost,
               sum(CASE 'loss' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS loss,
               sum(CASE 'gas_payer' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS gas_payer,
               sum(CASE 'gas_float' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS gas_float,
               sum(CASE 'treasury_house' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS treasury_house,
               sum(CASE 'gas_spent' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS gas_spent,
               sum(CASE 'in_transit' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS in_transit,
               sum(CASE 'payer_paid' WHEN r.debit THEN r.amount WHEN r.credit THEN -r.amount ELSE 0 END) AS payer_paid,
               sum(CASE 'detected' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS detected,
               sum(CASE 'held' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS held,
               sum(CASE 'disputed' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS disputed,
               sum(CASE 'releasing' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS releasing,
               sum(CASE 'refunding' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS refunding,
               sum(CASE 'paying_fees' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS paying_fees,
               sum(CASE 'platform_fees' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS platform_fees,
               sum(CASE 'provider_fees' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS provider_fees,
               sum(CASE 'suspense' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS suspense,
               sum(CASE 'overdraft' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS overdraft,
               sum(CASE 'gas_funding' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS gas_funding,
               sum(CASE 'provider_received' WHEN r.credit THEN r.amount WHEN r.debit THEN -r.amount ELSE 0 END) AS provider_received
        FROM unnest(v_all) AS r
        WHERE r.is_new GROUP BY 1, 2, 3) AS d
    WHERE b.book_id = d.book_id AND b.chain_id = d.chain_id AND b.token = d.token;

    INSERT INTO public.funds_ledger_entries (
        id, payment_id, purchase_request_ref_kind, purchase_request_id, purchase_request_external_ref,
        seller_offer_ref_kind, seller_offer_id, seller_offer_external_ref, seller_ref_kind, seller_id, seller_external_ref,
        entry_type, amount, currency, idempotency_key, metadata, created_at, book_kind, book_id, chain_id, token, reason,
        debit, credit, debit_address, credit_address, poster_role, fact_id, instruction_id, reverses_entry_id,
        book_seq, content_hash, prev_hash, entry_hash, tx_id)
    SELECT
        r.entry_id, r.payment_id, r.purchase_request_ref_kind, r.purchase_request_id, r.purchase_request_external_ref,
        r.seller_offer_ref_kind, r.seller_offer_id, r.seller_offer_external_ref, r.seller_ref_kind, r.seller_id,
        r.seller_external_ref, r.entry_type, r.amount, r.symbol, r.idempotency_key, r.evidence, v_created_at, r.book_kind,
        r.book_id, r.chain_id, r.token, r.reason, r.debit, r.credit, r.debit_address, r.credit_address, session_user,
        r.fact_id, r.instruction_id, r.reverses_entry_id, r.book_seq, r.content_hash, r.prev_hash, r.entry_hash, v_tx_id
    FROM unnest(v_all) AS r WHERE r.is_new;

    RETURN QUERY SELECT r.place, r.entry_id, r.is_new FROM unnest(v_all) AS r ORDER BY r.place;
END $$;
