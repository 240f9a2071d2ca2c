-- A Safe's rejection that enough owners signed waits for no signature any more, only for its depth (R1, R23).

ALTER TABLE fleet.release_instructions
    ADD COLUMN rejection_signed_at timestamptz
        CHECK (rejection_signed_at IS NULL OR unsigned_kind = 'safe_transaction');
