-- Each destination as it was when it was last derived again from its account's xpub (custody-rules R20). A row that
-- differs from what was audited is audited anew.

CREATE TABLE fleet.destination_audits (
    destination_id uuid PRIMARY KEY REFERENCES public.derived_destinations (id),
    address text NOT NULL,
    derivation_path text NOT NULL,
    derivation_index bigint NOT NULL,
    deposit_account_id uuid,
    is_derived boolean NOT NULL,
    audited_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
