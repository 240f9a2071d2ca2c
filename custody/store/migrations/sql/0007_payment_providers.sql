-- Providers beside Request Network: intents of the scanner, and how far an API of payments was read.

-- What the scanner was told about a payment. The secret signs its callbacks: no role reads the column, and the ingress
-- asks for one secret at a time (fleet.scanner_callback_secret).
CREATE TABLE fleet.scanner_intents (
    intent_id text PRIMARY KEY CHECK (intent_id ~ '^[0-9A-Za-z._:-]{1,100}$'),
    payment_id uuid NOT NULL REFERENCES public.payments (id),
    callback_secret text NOT NULL CHECK (length(callback_secret) BETWEEN 32 AND 256),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX scanner_intents_payment ON fleet.scanner_intents (payment_id);

-- The look that a delivery asked for: what came of it is the look's and the chain facts' to say.
ALTER TABLE fleet.webhook_deliveries ADD COLUMN look_id uuid REFERENCES fleet.chain_looks (id);
CREATE INDEX webhook_deliveries_look ON fleet.webhook_deliveries (look_id) WHERE look_id IS NOT NULL;
-- What may wait for a person, the oldest first.
CREATE INDEX webhook_deliveries_open ON fleet.webhook_deliveries (received_at)
    WHERE NOT is_test AND state IN ('received', 'unknown_request', 'no_transaction', 'malformed', 'mismatched');

-- How far an API was read. The window is walked a page at a time: a stop goes on at the page it stood at.
CREATE TABLE fleet.reconciliation_cursors (
    source text PRIMARY KEY,
    reconciled_to timestamptz NOT NULL,         -- every payment said to be before this was read, but for late ones
    window_from timestamptz,                    -- the window that is being walked, or NULL
    window_to timestamptz,
    kind_index smallint NOT NULL DEFAULT 0 CHECK (kind_index >= 0),
    page_offset integer NOT NULL DEFAULT 0 CHECK (page_offset >= 0),
    version bigint NOT NULL DEFAULT 0,          -- one writer's page at a time
    failing_since timestamptz,
    last_error text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((window_from IS NULL) = (window_to IS NULL))
);
