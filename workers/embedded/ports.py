"""Ports of the embedded services: chosen once, remembered, chosen again when somebody else took one."""

from __future__ import annotations

import json
import random
import socket
from typing import cast

from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.state_folder import StateFolder, write_private

HOST = "127.0.0.1"
"""The embedded services listen here and nowhere else."""

FIRST_PORT = 20_000
LAST_PORT = 31_999
"""Below the kernel's range for outgoing connections (32768 up), so that none can sit on a port between a
server's death and its restart."""

PORT_ATTEMPTS = 200
"""Random ports that are tried before giving up: more means that something is wrong with the machine."""


def is_free(port: int) -> bool:
    """Whether a server could listen on PORT of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def remembered(folder: StateFolder) -> dict[str, int]:
    """The ports by service name, as chosen before; empty when none was."""
    path = folder.root / "services.json"
    if not path.exists():
        return {}
    content = cast("dict[str, dict[str, int]]", json.loads(path.read_text(encoding="utf-8")))
    return dict(content.get("ports", {}))


def choose(folder: StateFolder, names: list[str], keep: set[str]) -> dict[str, int]:
    """A port for each of NAMES, remembered in services.json.

    Those in `keep` already listen on their own port and keep it; any other keeps its port while that is free.
    Raises EmbeddedServiceError when no free port is found.
    """
    ports = remembered(folder)
    for name in names:
        if name in ports and (name in keep or is_free(ports[name])):
            continue
        ports[name] = _new_port(set(ports.values()))
    write_private(folder.root / "services.json", json.dumps({"ports": ports}, indent=2) + "\n")
    return {name: ports[name] for name in names}


def _new_port(taken: set[int]) -> int:
    generator = random.SystemRandom()
    for _ in range(PORT_ATTEMPTS):
        port = generator.randint(FIRST_PORT, LAST_PORT)
        if port not in taken and is_free(port):
            return port
    msg = f"No free port between {FIRST_PORT} and {LAST_PORT} on {HOST}; close some servers and try again."
    raise EmbeddedServiceError(msg)
