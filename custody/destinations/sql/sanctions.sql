-- Sanctioned senders (R13): lists of addresses, each version whole and hashed; what one comes from is locked for good.
-- A list only adds. What newer lists no longer name stays named until two persons take it off, chain by chain (R10).
-- Errors: FL006, with what to do.

-- SHA-256 over the addresses in order, lower case, a line each: what shasum says of such a file.
CREATE OR REPLACE FUNCTION fleet.sanctions_hash(p_addresses text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(convert_to(string_agg(a.address || E'\n', '' ORDER BY a.address COLLATE "C"), 'UTF8'))
    FROM (SELECT DISTINCT lower(x) AS address FROM unnest(p_addresses) AS x) a
$$;

-- Loads a version; how many of its addresses are new. Null if this very version is loaded already.
CREATE OR REPLACE FUNCTION fleet.load_sanctions(
    p_version integer, p_addresses text[], p_hash bytea, p_source text, p_by text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_newest record;
    v_added integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('fleet.sanctions'));
    IF fleet.sanctions_hash(p_addresses) IS DISTINCT FROM p_hash THEN
        RAISE EXCEPTION 'the hash of the addresses is %, expected %: they changed on the way',
            coalesce(encode(fleet.sanctions_hash(p_addresses), 'hex'), 'none'), encode(p_hash, 'hex') USING ERRCODE = 'FL006';
    END IF;
    SELECT l.version, l.hash INTO v_newest FROM fleet.sanctions_lists l ORDER BY l.version DESC LIMIT 1;
    IF v_newest.version = p_version AND v_newest.hash = p_hash THEN
        RETURN NULL;
    ELSIF v_newest.version >= p_version THEN
        RAISE EXCEPTION 'sanctions list % is loaded: expected a newer version than it, got %', v_newest.version, p_version
            USING ERRCODE = 'FL006';
    END IF;
    INSERT INTO fleet.sanctions_lists (version, hash, source, addresses, loaded_by)
    VALUES (p_version, p_hash, p_source, (SELECT count(DISTINCT lower(x)) FROM unnest(p_addresses) AS x), p_by);
    INSERT INTO fleet.sanctioned_addresses (address, since_version)
    SELECT DISTINCT lower(x), p_version FROM unnest(p_addresses) AS x
    ON CONFLICT (address) DO NOTHING;
    GET DIAGNOSTICS v_added = ROW_COUNT;
    RETURN v_added;
END $$;

-- Which of the senders are named on the chain.
CREATE OR REPLACE FUNCTION fleet.sanctioned_among(p_chain_id bigint, p_senders text[]) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.sender FROM unnest(p_senders) AS s (sender)
    WHERE EXISTS (SELECT FROM fleet.sanctioned_addresses a WHERE a.address = lower(s.sender))
      AND NOT EXISTS (SELECT FROM fleet.sanctions_delisted x WHERE x.chain_id = p_chain_id AND x.address = lower(s.sender))
$$;

-- What of a book's suspense came from sanctioned senders, whole tokens: it never leaves while they are named.
CREATE OR REPLACE FUNCTION fleet.sanctioned_of(p_book_id uuid, p_chain_id bigint, p_token text) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(e.amount), 0) FROM public.funds_ledger_entries e JOIN fleet.chain_facts f ON f.id = e.fact_id
    WHERE e.book_id = p_book_id AND e.chain_id = p_chain_id AND e.token = p_token
      AND e.entry_type = 'adjustment' AND e.reason = 'sanctioned' AND e.credit = 'suspense'
      AND NOT EXISTS (SELECT FROM public.funds_ledger_entries r WHERE r.reverses_entry_id = e.id)
      AND NOT EXISTS (SELECT FROM fleet.sanctions_delisted x WHERE x.chain_id = f.chain_id AND x.address = lower(f.sender))
$$;

-- R13: never released, whoever asks. A reorganisation takes back what it must (L5): that is no way out.
CREATE OR REPLACE FUNCTION fleet.refuse_spending_sanctioned() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_locked numeric := fleet.sanctioned_of(NEW.book_id, NEW.chain_id, NEW.token);
BEGIN
    IF v_locked > 0 AND v_locked > (SELECT b.suspense FROM fleet.ledger_balances b WHERE b.book_id = NEW.book_id
                                    AND b.chain_id = NEW.chain_id AND b.token = NEW.token) THEN
        RAISE EXCEPTION '% of what book % has in suspense came from sanctioned senders and is never released (R13)',
            trim_scale(v_locked), NEW.book_id USING ERRCODE = 'check_violation', SCHEMA = 'fleet', TABLE = 'ledger_balances',
                CONSTRAINT = 'ledger_balances_sanctioned_locked';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fleet.propose_delisting(p_chain_id bigint, p_address text, p_reason text, p_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_parameters jsonb;
    v_id uuid;
BEGIN
    SELECT jsonb_build_object('chain_id', p_chain_id, 'address', p_address, 'since_version', a.since_version, 'reason', p_reason)
    INTO v_parameters FROM fleet.sanctioned_addresses a
    WHERE a.address = lower(p_address) AND EXISTS (SELECT FROM fleet.sanctioned_among(p_chain_id, ARRAY[p_address]));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no sanctions list names % on chain %', p_address, p_chain_id USING ERRCODE = 'FL006';
    END IF;
    INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by)
    VALUES ('delist', p_chain_id, v_parameters, fleet.action_hash('delist', v_parameters), p_reason, p_by)
    RETURNING id INTO v_id;
    RETURN v_id;
END $$;

-- Returns the address.
CREATE OR REPLACE FUNCTION fleet.execute_delisting(p_action_id uuid, p_hash bytea, p_by text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_action fleet.operator_actions := fleet.lock_agreed_action(p_action_id, ARRAY['delist'], p_hash, p_by);
BEGIN
    INSERT INTO fleet.sanctions_delisted (chain_id, address, action_id)
    VALUES (v_action.chain_id, lower(v_action.parameters ->> 'address'), p_action_id);
    UPDATE fleet.operator_actions SET state = 'executed', ended_by = p_by, ended_at = clock_timestamp()
    WHERE id = p_action_id;
    RETURN v_action.parameters ->> 'address';
END $$;

CREATE OR REPLACE FUNCTION fleet.refuse_sanctions_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% only grows: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
