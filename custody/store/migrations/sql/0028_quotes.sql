-- Oracle quotes (facts §7): what was asked, what it waits for, and of each quote everything it was made of.
-- public.payment_quotes is the marketplace's row of it; a payment that Postgres does not have yet cannot have one, and its
-- quote is kept here until it can.

CREATE TABLE fleet.quotes (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    payment_id uuid UNIQUE REFERENCES public.payments (id),
    payment_object_id text UNIQUE CHECK (payment_object_id ~ '^[0-9a-f]{24}$'),  -- of a payment that only MongoDB has
    owed numeric(38, 18) NOT NULL CHECK (owed > 0),
    currency public.offer_currency NOT NULL,
    chain_id bigint NOT NULL,
    token text NOT NULL CHECK (token <> 'native'),
    asked_by text NOT NULL CHECK (length(asked_by) BETWEEN 1 AND 100),
    state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'waits_for_people', 'quoted', 'dropped')),
    bound text,                                 -- which limit refused the last try, and its sentence
    reason text CHECK (length(reason) <= 2000),
    attempts integer NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    fx_rate numeric(38, 18) CHECK (fx_rate > 0),
    token_price_usd numeric(38, 18) CHECK (token_price_usd > 0),
    depeg_adjustment_bps integer CHECK (depeg_adjustment_bps >= 0),
    settle_amount numeric(38, 18) CHECK (settle_amount > 0),
    quoted_at timestamptz,
    expires_at timestamptz,
    sources jsonb,                              -- every price that was agreed on: pair, source, value, as_of
    CHECK (num_nonnulls(payment_id, payment_object_id) > 0),
    CHECK (num_nonnulls(fx_rate, token_price_usd, depeg_adjustment_bps, settle_amount, quoted_at, expires_at, sources)
           = CASE state WHEN 'quoted' THEN 7 ELSE 0 END),
    CHECK (expires_at > quoted_at),
    -- Never below what is owed, and at most 3 % above it (facts §7); a token above its peg counts as one dollar.
    CONSTRAINT quotes_never_below_owed CHECK (settle_amount * token_price_usd >= owed * fx_rate),
    CONSTRAINT quotes_rounding CHECK (settle_amount * least(token_price_usd, 1) <= owed * fx_rate * 1.03),
    FOREIGN KEY (chain_id, token) REFERENCES fleet.tokens (chain_id, token)
);
CREATE INDEX quotes_due ON fleet.quotes (run_after, id) WHERE state IN ('asked', 'waits_for_people');
CREATE INDEX quotes_made ON fleet.quotes (quoted_at DESC) WHERE state = 'quoted';
CREATE INDEX quotes_without_parent ON fleet.quotes (id) WHERE state = 'quoted' AND payment_id IS NULL;

-- A quote that was given is never changed; only the payment that it is of may become known.
CREATE FUNCTION fleet.refuse_quote_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.state <> 'quoted' OR (
            (OLD.payment_id IS NULL OR OLD.payment_id IS NOT DISTINCT FROM NEW.payment_id)
            AND to_jsonb(OLD) - 'payment_id' = to_jsonb(NEW) - 'payment_id')) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'fleet.quotes: a quote that was given is never changed, and none is deleted';
END $$;
CREATE TRIGGER quotes_no_change BEFORE UPDATE OR DELETE ON fleet.quotes
    FOR EACH ROW EXECUTE FUNCTION fleet.refuse_quote_change();
CREATE TRIGGER quotes_no_truncate BEFORE TRUNCATE ON fleet.quotes
    FOR EACH STATEMENT EXECUTE FUNCTION fleet.refuse_quote_change();
ALTER TABLE fleet.quotes ENABLE ALWAYS TRIGGER quotes_no_change;
ALTER TABLE fleet.quotes ENABLE ALWAYS TRIGGER quotes_no_truncate;

-- Which versions of prices.toml were seen, so that an older one is refused (R8). Apart from fleet.accepted_documents: who
-- writes here says nothing about a policy.
CREATE TABLE fleet.accepted_price_files (
    version integer PRIMARY KEY CHECK (version > 0),
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
