-- What every entry pays for. The rules are those of before, word for word in meaning.

-- All of a row's rules in one expression, and only for a row that breaks one the search for its name: PL/pgSQL prepares
-- each expression again in every transaction.
CREATE OR REPLACE FUNCTION fleet.balance_is_sound(b fleet.ledger_balances) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_rule text;
BEGIN
    IF least(b.destination, b.treasury, b.transfer_cost, b.loss, b.gas_payer, b.gas_float, b.treasury_house, b.gas_spent,
             b.in_transit, b.payer_paid, b.detected, b.held, b.disputed, b.releasing, b.refunding, b.paying_fees,
             b.platform_fees, b.provider_fees, b.suspense, b.overdraft, b.gas_funding, b.provider_received, b.dispute_open) >= 0
       AND b.releasing + b.refunding + b.paying_fees <= b.treasury
       AND (b.is_primary OR greatest(b.held, b.disputed, b.releasing, b.paying_fees, b.platform_fees, b.provider_fees) <= 0)
       AND b.destination + b.treasury + b.transfer_cost + b.loss + b.gas_payer + b.gas_float + b.treasury_house + b.gas_spent
           + b.in_transit + b.payer_paid
           = b.detected + b.held + b.disputed + b.releasing + b.refunding + b.paying_fees + b.platform_fees
           + b.provider_fees + b.suspense + b.overdraft + b.gas_funding + b.provider_received
       AND b.book_kind IN ('payment', 'house') THEN
        RETURN true;
    END IF;
    SELECT 'ledger_balances_' || account.key INTO v_rule FROM jsonb_each_text(to_jsonb(b)) AS account
    WHERE account.value LIKE '-%' AND account.key NOT IN ('book_id', 'head_hash', 'updated_at', 'token') LIMIT 1;
    v_rule := CASE
        WHEN v_rule IS NOT NULL THEN v_rule
        -- L3: what is promised never exceeds what the treasury holds for this book.
        WHEN b.releasing + b.refunding + b.paying_fees > b.treasury THEN 'ledger_balances_promises_covered'
        -- L10: only the primary row of a payment carries escrow.
        WHEN NOT b.is_primary AND greatest(b.held, b.disputed, b.releasing, b.paying_fees, b.platform_fees, b.provider_fees) > 0
            THEN 'ledger_balances_primary_only'
        WHEN b.book_kind IN ('payment', 'house') THEN 'ledger_balances_balanced'
        ELSE 'ledger_balances_book_kind' END;
    RAISE EXCEPTION 'book % would break %: an account below zero, promises above its treasury, or totals that differ',
        b.book_id, v_rule
        USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'ledger_balances', CONSTRAINT = v_rule;
END $$;

CREATE OR REPLACE FUNCTION fleet.entry_is_sound(e public.funds_ledger_entries) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_rule text;
BEGIN
    IF e.book_id IS NOT NULL
       AND num_nulls(e.amount, e.book_kind, e.chain_id, e.token, e.reason, e.debit, e.credit, e.poster_role, e.book_seq,
                     e.content_hash, e.prev_hash, e.entry_hash, e.tx_id, e.idempotency_key) = 0
       AND e.amount > 0 AND e.debit <> e.credit
       AND (CASE e.purchase_request_ref_kind
           WHEN 'entity' THEN e.purchase_request_id IS NOT NULL AND e.purchase_request_external_ref IS NULL
           WHEN 'template' THEN e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NOT NULL
           ELSE e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NULL END)
       AND (CASE e.seller_offer_ref_kind
           WHEN 'entity' THEN e.seller_offer_id IS NOT NULL AND e.seller_offer_external_ref IS NULL
           WHEN 'template' THEN e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NOT NULL
           ELSE e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NULL END)
       AND (CASE e.seller_ref_kind
           WHEN 'entity' THEN e.seller_id IS NOT NULL AND e.seller_external_ref IS NULL
           WHEN 'template' THEN e.seller_id IS NULL AND e.seller_external_ref IS NOT NULL
           ELSE e.seller_id IS NULL AND e.seller_external_ref IS NULL END) THEN
        RETURN true;
    END IF;
    -- Not the fleet's own, or broken: which rule it is.
    IF e.book_id IS NOT NULL AND (
        e.amount <= 0 OR e.debit = e.credit
        OR num_nulls(e.book_kind, e.chain_id, e.token, e.reason, e.debit, e.credit, e.poster_role, e.book_seq,
                     e.content_hash, e.prev_hash, e.entry_hash, e.tx_id, e.idempotency_key) > 0) THEN
        v_rule := 'funds_ledger_entries_posted';
    ELSIF NOT (CASE e.purchase_request_ref_kind
        WHEN 'entity' THEN e.purchase_request_id IS NOT NULL AND e.purchase_request_external_ref IS NULL
        WHEN 'template' THEN e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NOT NULL
        ELSE e.purchase_request_id IS NULL AND e.purchase_request_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_purchase_request_ref';
    ELSIF NOT (CASE e.seller_offer_ref_kind
        WHEN 'entity' THEN e.seller_offer_id IS NOT NULL AND e.seller_offer_external_ref IS NULL
        WHEN 'template' THEN e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NOT NULL
        ELSE e.seller_offer_id IS NULL AND e.seller_offer_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_seller_offer_ref';
    ELSIF NOT (CASE e.seller_ref_kind
        WHEN 'entity' THEN e.seller_id IS NOT NULL AND e.seller_external_ref IS NULL
        WHEN 'template' THEN e.seller_id IS NULL AND e.seller_external_ref IS NOT NULL
        ELSE e.seller_id IS NULL AND e.seller_external_ref IS NULL END) THEN
        v_rule := 'funds_ledger_entries_seller_ref';
    ELSE
        RETURN true;
    END IF;
    RAISE EXCEPTION 'entry % breaks %', e.id, v_rule
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'funds_ledger_entries', CONSTRAINT = v_rule;
END $$;
