"""Which databases a backfill may write to."""

from sqlalchemy import Engine

from custody.mirror.backfill.inserting import driver_of
from custody.mirror.backfill.running import BackfillRefused


def require_allowed_host(engine: Engine, allowed: str) -> None:
    """Refuse a database on a host that is not named in ``allowed`` (hosts with commas between).

    Judged by the connection that stands, which a URL with several hosts, PGHOST or a service file decide as well. A socket of
    this machine is always allowed. Raises BackfillRefused.
    """
    with engine.connect() as connection:
        host = driver_of(connection).info.host
    if host and not host.startswith(("/", "@")) and host.lower() not in {name.lower() for name in allowed.split(",")}:
        raise BackfillRefused(
            f"DATABASE_ADMIN_URL leads to {host}, and BACKFILL_DATABASE_HOSTS allows {allowed}: name that host there if its "
            "database is really the one to write these documents to"
        )
