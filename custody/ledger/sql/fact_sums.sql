-- L2: what is booked of a fact is the fact's amount, judged when the transaction ends: Σ of what came to (or left) the
-- destination by an inbound (or sweep) fact = its amount while it lives, nothing once it is dead. What the sweeps found
-- in no payment's book is said in the fact itself (unbooked_units). An overdraft stands for coins at its address (L5):
-- the loss of a dead fact makes its sum nothing, what recovers it is the sum of the fact that returned, and what left
-- the treasury without us is the whole sum of an outbound fact. Payouts touch neither account.
CREATE OR REPLACE FUNCTION fleet.require_fact_sum() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_direction text;
    v_unit numeric;                 -- the smallest ones in a whole token
    v_expected numeric;
    v_booked numeric;
BEGIN
    SELECT f.direction, power(10::numeric, t.decimals), CASE f.direction WHEN 'inbound' THEN 1 ELSE -1 END
               * CASE WHEN f.live THEN f.amount_units - f.unbooked_units ELSE 0 END
    INTO v_direction, v_unit, v_expected
    FROM fleet.chain_facts f JOIN fleet.tokens t ON t.chain_id = f.chain_id AND t.token = f.token
    WHERE f.id = NEW.fact_id;
    SELECT sum(CASE WHEN e.debit IN ('destination', 'overdraft') THEN e.amount ELSE -e.amount END) * v_unit INTO v_booked
    FROM public.funds_ledger_entries e
    WHERE e.fact_id = NEW.fact_id AND ('destination' IN (e.debit, e.credit) OR 'overdraft' IN (e.debit, e.credit));
    IF v_booked <> v_expected THEN
        RAISE EXCEPTION 'entries of % fact % change destinations and overdrafts by % units in all; it says % (L2)', v_direction,
            NEW.fact_id, trim_scale(v_booked), v_expected
            USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'funds_ledger_entries',
                  CONSTRAINT = 'funds_ledger_entries_fact_sum';
    END IF;
    RETURN NULL;
END $$;
