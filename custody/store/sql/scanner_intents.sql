-- The one way to a callback secret: by the intent's name, one at a time, for the ingress alone (R9).
CREATE OR REPLACE FUNCTION fleet.scanner_callback_secret(intent text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT i.callback_secret FROM fleet.scanner_intents i WHERE i.intent_id = intent $$;
