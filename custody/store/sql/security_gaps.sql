-- Open security gaps: which payments they pause (R7), and how two persons close one (R10). Errors: FL006, with what to do.

-- Each open one with the row of its document, by id_map or the row's own legacy_object_id.
CREATE OR REPLACE VIEW fleet.security_gap_rows AS
SELECT g.id AS gap_id, g.collection, g.legacy_object_id AS object_id, g.reason, g.created_at AS since, n.row_id
FROM public.pg_dualwrite_gaps g
JOIN (
    SELECT m.collection, m.legacy_object_id AS object_id, m.new_id AS row_id FROM public.id_map m
    UNION ALL SELECT 'payments', t.legacy_object_id, t.id FROM public.payments t
    UNION ALL SELECT 'purchaserequests', t.legacy_object_id, t.id FROM public.purchase_requests t
    UNION ALL SELECT 'selleroffers', t.legacy_object_id, t.id FROM public.seller_offers t
    UNION ALL SELECT 'disputes', t.legacy_object_id, t.id FROM public.disputes t
    UNION ALL SELECT 'deriveddestinations', t.legacy_object_id, t.id FROM public.derived_destinations t
    UNION ALL SELECT 'trezoraccounts', t.legacy_object_id, t.id FROM public.trezor_accounts t
    UNION ALL SELECT 'fundsledgerentries', t.legacy_object_id, t.id FROM public.funds_ledger_entries t
) n ON n.collection = g.collection AND n.object_id = g.legacy_object_id
WHERE g.severity = 'security' AND g.resolved_at IS NULL;

-- What pauses a payment: an open security gap of its own document, its purchase request, offer, dispute, deposit address,
-- seller's Trezor account or one of its ledger entries; also of an entry that only MongoDB has and that names the payment.
-- The gap of a whole collection of these (document *) pauses every payment: whose document was changed cannot be seen.
-- Its plan takes longer than its answer: processes ask fleet.security_pauses_of().
CREATE OR REPLACE VIEW fleet.security_pauses AS
SELECT p.id AS payment_id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g JOIN public.payments p ON p.id = g.row_id WHERE g.collection = 'payments'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g JOIN public.payments p ON p.purchase_request_id = g.row_id
WHERE g.collection = 'purchaserequests'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g JOIN public.payments p ON p.seller_offer_id = g.row_id WHERE g.collection = 'selleroffers'
UNION
SELECT p.id, g.id, g.collection, g.legacy_object_id, g.reason, g.created_at
FROM public.pg_dualwrite_gaps g JOIN public.payments p ON p.purchase_request_external_ref = g.legacy_object_id
WHERE g.collection IN ('purchaserequests', 'requesttemplates') AND g.severity = 'security' AND g.resolved_at IS NULL
UNION
SELECT p.id, g.id, g.collection, g.legacy_object_id, g.reason, g.created_at
FROM public.pg_dualwrite_gaps g JOIN public.payments p ON p.seller_offer_external_ref = g.legacy_object_id
WHERE g.collection = 'selleroffers' AND g.severity = 'security' AND g.resolved_at IS NULL
UNION
-- A dispute names its request by a text of either store.
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g
JOIN public.disputes d ON d.id = g.row_id
JOIN public.purchase_requests r ON r.legacy_object_id = d.purchase_request_id
JOIN public.payments p ON p.purchase_request_id = r.id
WHERE g.collection = 'disputes'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g
JOIN public.disputes d ON d.id = g.row_id
JOIN public.id_map m ON m.collection = 'purchaserequests' AND m.legacy_object_id = d.purchase_request_id
JOIN public.payments p ON p.purchase_request_id = m.new_id
WHERE g.collection = 'disputes'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g
JOIN public.disputes d ON d.id = g.row_id
JOIN public.payments p ON p.purchase_request_external_ref = d.purchase_request_id
WHERE g.collection = 'disputes'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g
JOIN public.disputes d ON d.id = g.row_id
JOIN public.payments p ON p.purchase_request_id =
    CASE WHEN pg_input_is_valid(d.purchase_request_id, 'uuid') THEN d.purchase_request_id::uuid END
WHERE g.collection = 'disputes'
UNION
SELECT k.payment_id, g.id, g.collection, g.legacy_object_id, g.reason, g.created_at
FROM public.pg_dualwrite_gaps g JOIN fleet.payment_disputes k ON k.dispute_id = g.legacy_object_id
WHERE g.collection = 'disputes' AND g.severity = 'security' AND g.resolved_at IS NULL
UNION
SELECT r.payment_id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g JOIN fleet.payment_routes r ON r.destination_id = g.row_id
WHERE g.collection = 'deriveddestinations'
UNION
SELECT p.id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g
JOIN public.trezor_accounts t ON t.id = g.row_id
JOIN public.payments p ON p.seller_id = t.user_id
WHERE g.collection = 'trezoraccounts'
UNION
SELECT e.payment_id, g.gap_id, g.collection, g.object_id, g.reason, g.since
FROM fleet.security_gap_rows g JOIN public.funds_ledger_entries e ON e.id = g.row_id
WHERE g.collection = 'fundsledgerentries' AND e.payment_id IS NOT NULL
UNION
SELECT n.new_id, g.id, g.collection, g.legacy_object_id, g.reason, g.created_at
FROM public.pg_dualwrite_gaps g
JOIN (SELECT m.legacy_object_id, m.new_id FROM public.id_map m WHERE m.collection = 'payments'
      UNION ALL SELECT t.legacy_object_id, t.id FROM public.payments t) n
    ON n.legacy_object_id = g.payload -> 'paymentId' ->> '$oid'
WHERE g.collection = 'fundsledgerentries' AND g.severity = 'security' AND g.resolved_at IS NULL
UNION
SELECT p.id, g.id, g.collection, g.legacy_object_id, g.reason, g.created_at
FROM public.pg_dualwrite_gaps g CROSS JOIN public.payments p
WHERE g.legacy_object_id = '*' AND g.severity = 'security' AND g.resolved_at IS NULL
  AND g.collection IN ('payments', 'purchaserequests', 'requesttemplates', 'selleroffers', 'disputes',
                       'deriveddestinations', 'trezoraccounts', 'fundsledgerentries');

-- What pauses these payments; null: any. Roles that ask have EXECUTE on this alone. Mostly no gap is open, and the answer
-- is one look into an index; else the plan is made once a session.
CREATE OR REPLACE FUNCTION fleet.security_pauses_of(p_payment_ids uuid[]) RETURNS SETOF fleet.security_pauses
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.pg_dualwrite_gaps g WHERE g.severity = 'security' AND g.resolved_at IS NULL) THEN
        RETURN;
    ELSIF p_payment_ids IS NULL THEN
        RETURN QUERY SELECT s.* FROM fleet.security_pauses s;
    ELSE
        RETURN QUERY SELECT s.* FROM fleet.security_pauses s WHERE s.payment_id = ANY (p_payment_ids);
    END IF;
END $$;

-- What two persons agree to: this very gap with what it kept of the document, and what becomes of MongoDB's values.
CREATE OR REPLACE FUNCTION fleet.gap_as_parameters(p_gap_id uuid, p_write_again boolean, p_reason text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('chain_id', 0, 'gap', g.id, 'collection', g.collection,
        'object_id', coalesce(g.legacy_object_id, g.id::text), 'op', g.op, 'gap_reason', g.reason, 'payload_sha256', encode(sha256(convert_to(g.payload::text, 'UTF8')), 'hex'),
        'write_again', p_write_again, 'reason', p_reason)
    FROM public.pg_dualwrite_gaps g WHERE g.id = p_gap_id AND g.severity = 'security' AND g.resolved_at IS NULL
$$;

-- The row whose document the mirror can write again; null where there is none, or the mirror writes no such documents.
CREATE OR REPLACE FUNCTION fleet.document_to_restore(p_gap_id uuid) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.row_id FROM fleet.security_gap_rows g
    WHERE g.gap_id = p_gap_id AND g.collection IN
        ('payments', 'fundsledgerentries', 'deriveddestinations', 'trezoraccounts', 'purchaserequests')
    LIMIT 1
$$;

CREATE OR REPLACE FUNCTION fleet.propose_gap_resolution(
    p_gap_id uuid, p_write_again boolean, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_parameters jsonb := fleet.gap_as_parameters(p_gap_id, p_write_again, p_reason);
    v_id uuid;
BEGIN
    IF v_parameters IS NULL THEN
        RAISE EXCEPTION 'there is no open security gap %: fleet gaps list --severity security', p_gap_id
            USING ERRCODE = 'FL006';
    END IF;
    IF p_write_again AND fleet.document_to_restore(p_gap_id) IS NULL THEN
        RAISE EXCEPTION 'gap %: the mirror writes no % of that id: put it right in MongoDB by hand, and propose without --write-again',
            p_gap_id, v_parameters ->> 'collection' USING ERRCODE = 'FL006';
    END IF;
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('resolve_gap', 0, v_parameters, fleet.action_hash('resolve_gap', v_parameters), p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Returns the gap's id. The payments that it alone paused go on; the releases and sweeps workers are rung.
CREATE OR REPLACE FUNCTION fleet.execute_gap_resolution(p_action_id uuid, p_hash bytea, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['resolve_gap'], p_hash, p_by);
    v_gap_id uuid := (v_action.parameters ->> 'gap')::uuid;
    v_write_again boolean := (v_action.parameters ->> 'write_again')::boolean;
    v_document uuid;
BEGIN
    PERFORM FROM public.pg_dualwrite_gaps g WHERE g.id = v_gap_id FOR UPDATE;
    IF fleet.gap_as_parameters(v_gap_id, v_write_again, v_action.parameters ->> 'reason')
            IS DISTINCT FROM v_action.parameters THEN
        RAISE EXCEPTION 'gap % is no longer as it was when action % was proposed: withdraw it, look, and propose anew',
            v_gap_id, p_action_id USING ERRCODE = 'FL006';
    END IF;
    IF v_write_again THEN
        v_document := fleet.document_to_restore(v_gap_id);
        INSERT INTO fleet.mirror_restorations (action_id, collection, document_id)
        VALUES (p_action_id, v_action.parameters ->> 'collection', v_document);
        INSERT INTO fleet.outbox (queue, collection, document_id)
        VALUES ('mirror', v_action.parameters ->> 'collection', v_document);
    END IF;
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id;
    UPDATE public.pg_dualwrite_gaps g SET resolved_at = clock_timestamp(), resolved_by = 'action:' || p_action_id,
        resolution = v_action.parameters ->> 'reason'
    WHERE g.id = v_gap_id;
    INSERT INTO fleet.outbox (queue) VALUES ('releases'), ('sweeps');
    RETURN v_gap_id;
END $$;
