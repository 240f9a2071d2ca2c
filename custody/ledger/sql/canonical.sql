-- Canonical bytes of a ledger entry: each field length-prefixed (int4, -1 for NULL), so that no two different
-- entries can have the same bytes; numerics trimmed, because a function's argument loses its column's scale.

CREATE OR REPLACE FUNCTION fleet.field_bytes(VARIADIC fields text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(string_agg(
        CASE WHEN f IS NULL THEN int4send(-1) ELSE int4send(octet_length(convert_to(f, 'UTF8'))) || convert_to(f, 'UTF8') END,
        ''::bytea ORDER BY ord), ''::bytea)
    FROM unnest(fields) WITH ORDINALITY AS t(f, ord)
$$;

-- The two hashes are single expressions, so that PostgreSQL writes them into the caller's: a call would cost more than
-- the hash. array_send() gives each element exactly as above, after a header of 20 bytes.

-- What a retry must repeat exactly: the same idempotency key with another content hash is an error.
CREATE OR REPLACE FUNCTION fleet.entry_content_hash(
    book_kind text, book_id uuid, chain_id bigint, token text, entry_type text, reason text, debit text, credit text,
    amount numeric, debit_address text, credit_address text, fact_id uuid, instruction_id uuid, reverses_entry_id uuid,
    idempotency_key text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(substr(array_send(ARRAY[
        convert_to(book_kind, 'UTF8'), convert_to(book_id::text, 'UTF8'), convert_to(chain_id::text, 'UTF8'),
        convert_to(token, 'UTF8'), convert_to(entry_type, 'UTF8'), convert_to(reason, 'UTF8'), convert_to(debit, 'UTF8'),
        convert_to(credit, 'UTF8'), convert_to(trim_scale(amount)::text, 'UTF8'), convert_to(debit_address, 'UTF8'),
        convert_to(credit_address, 'UTF8'), convert_to(fact_id::text, 'UTF8'), convert_to(instruction_id::text, 'UTF8'),
        convert_to(reverses_entry_id::text, 'UTF8'), convert_to(idempotency_key, 'UTF8')]), 21))
$$;

-- The link of the book's chain. 0x00 is the leaf prefix of RFC 6962.
CREATE OR REPLACE FUNCTION fleet.entry_hash(
    prev_hash bytea, book_seq bigint, entry_id uuid, content_hash bytea, evidence jsonb, poster_role text,
    created_at timestamptz, tx_id bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256('\x00'::bytea || prev_hash || content_hash || substr(array_send(ARRAY[
        convert_to(book_seq::text, 'UTF8'), convert_to(entry_id::text, 'UTF8'), convert_to(evidence::text, 'UTF8'),
        convert_to(poster_role, 'UTF8'),
        convert_to((extract(epoch FROM created_at) * 1000000)::bigint::text, 'UTF8'), convert_to(tx_id::text, 'UTF8')]), 21))
$$;
