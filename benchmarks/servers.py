"""A real PostgreSQL for benchmarks, with a database of their own, dropped at the end."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from sqlalchemy import create_engine, text

from custody.store.engine import open_engine, sqlalchemy_url
from custody.store.roles import read_role_password
from custody.store.upgrade import upgrade_database
from workers.embedded import services
from workers.embedded.role_passwords import ensure_role_passwords

STATE_DIR = Path(".fleet/benchmarks")


class BenchmarkDatabase:
    """A database at the newest revision; ``url(role)`` connects as one of the fleet's roles."""

    def __init__(self, admin_url: str, passwords: Path) -> None:
        self.admin_url = admin_url
        self._passwords = passwords

    def url(self, role: str) -> str:
        parts = urlsplit(self.admin_url)
        password = quote(read_role_password(self._passwords, role), safe="")
        return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))


@contextmanager
def benchmark_database(*, keep_running: bool = False) -> Generator[BenchmarkDatabase]:
    """Start the servers, make a database, and take both away again (``keep_running``: the servers are another's)."""
    running = services.up(STATE_DIR)
    parts = urlsplit(running.database_admin_url)
    name = f"bench_{secrets.token_hex(4)}"
    maintenance = create_engine(
        sqlalchemy_url(urlunsplit(parts._replace(path="/postgres"))), isolation_level="AUTOCOMMIT"
    )
    try:
        with maintenance.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        admin_url = urlunsplit(parts._replace(path=f"/{name}"))
        passwords = ensure_role_passwords(running.state_dir)
        admin = open_engine(admin_url, application="bench-upgrade", pool_size=1)
        upgrade_database(admin, passwords)
        admin.dispose()
        yield BenchmarkDatabase(admin_url, passwords)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        maintenance.dispose()
        if not keep_running:
            services.down(STATE_DIR)
