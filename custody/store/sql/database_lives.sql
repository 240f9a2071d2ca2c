-- After a restore or a promotion the books may lack what the chains and the signers know: every chain is paused until
-- people have run fleet db restored and let it go on (R22, R10).

-- True if this database is another server or timeline than people have begun work on. The first one begins by itself.
CREATE OR REPLACE FUNCTION fleet.pause_after_restore() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_system bigint := (SELECT s.system_identifier FROM pg_control_system() s);
    v_timeline integer := (SELECT c.timeline_id FROM pg_control_checkpoint() c);
BEGIN
    IF EXISTS (SELECT FROM fleet.database_lives l WHERE (l.system_identifier, l.timeline_id) = (v_system, v_timeline)) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM fleet.database_lives) THEN
        INSERT INTO fleet.database_lives VALUES (v_system, v_timeline, clock_timestamp(), 'fleet db upgrade')
        ON CONFLICT DO NOTHING;
        RETURN false;
    END IF;
    PERFORM fleet.pause_chain(c.chain_id,
        'database_restored: nonces and books may be behind the chain and the signers; run fleet db restored, then fleet chain go-on')
    FROM fleet.chain_cursors c WHERE c.paused_reason IS NULL;
    RETURN true;
END $$;
