"""Whether this database is the one that the fleet worked on before: a restored or promoted one is not (R22)."""

from sqlalchemy import Connection, Engine, text

from custody.store.engine import transaction


def pause_after_restore(engine: Engine) -> bool:
    """Pause every chain if this is another server or timeline than people have begun work on; whether it is."""
    with transaction(engine) as connection:
        return connection.execute(text("SELECT fleet.pause_after_restore()")).scalar_one()


def begin_life(connection: Connection, *, by: str) -> bool:
    """Say that people have looked at this database, and work goes on here. False if that was said before.

    Run as an administrator. Chains stay paused until two persons let each go on.
    """
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.database_lives (system_identifier, timeline_id, begun_by)
            SELECT s.system_identifier, c.timeline_id, :by FROM pg_control_system() s, pg_control_checkpoint() c
            ON CONFLICT DO NOTHING
            """
        ),
        {"by": by},
    )
    return made.rowcount == 1
