"""A real PostgreSQL for benchmarks, with a database of their own, dropped at the end; and a chain node of their own."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from sqlalchemy import create_engine, text
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from custody.store.engine import open_engine, sqlalchemy_url
from custody.store.roles import read_role_password
from custody.store.upgrade import upgrade_database
from workers.embedded import anvil, services
from workers.embedded.role_passwords import ensure_role_passwords
from workers.embedded.server import Health
from workers.embedded.state_folder import StateFolder
from workers.processes import ProcessContext, process, process_environment

STATE_DIR = Path(".fleet/benchmarks")
NODE_SECONDS: Final = 30
READY_SECONDS: Final = 60.0  # for a process of the fleet to begin its work, and to end it


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


@contextmanager
def benchmark_node() -> Generator[str]:
    """An Anvil that mines when it is told to, and keeps nothing; yields its URL."""
    folder = StateFolder.open(STATE_DIR)
    anvil.prepare(folder, 0, os.environ)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    binary = str(anvil.binary(folder, os.environ))
    arguments = [binary, "--quiet", "--port", port, "--accounts", "0", "--no-mining", "--gas-limit", "60000000"]
    node = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        waiting = Retrying(stop=stop_after_delay(NODE_SECONDS), wait=wait_fixed(0.05), retry=retry_if_result(_is_ill))
        waiting(anvil.probe, url)
        yield url
    finally:
        node.kill()
        node.wait()


def _is_ill(health: Health) -> bool:
    return not health.ok


@contextmanager
def started_processes(names: Iterable[str], context: ProcessContext) -> Generator[None]:
    """Processes of the fleet as `fleet up` starts them, each with its log in the context's folder, ended at the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name in names:
            chosen = process(name)
            with (context.state_dir / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, *chosen.arguments],
                        env={"PATH": os.defpath} | process_environment(chosen, context, {}),
                        stdout=log,
                        stderr=log,
                    )
                )
        yield
    finally:
        for each in started:
            each.terminate()
        for each in started:
            each.wait(timeout=READY_SECONDS)
