"""Anvil, a real EVM chain for development, from its npm package (checksum verified).

It has no accounts of its own, so no key material is on its command line: whoever needs ether gets it by
`anvil_setBalance`. Blocks come every second; a restart keeps the chain (see `anvil_keeper`).
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from workers.embedded import anvil_keeper, npm_packages
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.ports import HOST
from workers.embedded.server import HEALTHY, PROBE_SECONDS, EmbeddedServer, Health, nothing_to_settle
from workers.embedded.state_folder import StateFolder
from workers.embedded.supervision import Program
from workers.tls import authorities_for

NAME = "anvil"
SETTING = "CHAIN_RPC_URL"
BINARY_SETTING = "ANVIL_BINARY"
CHAIN_ID = 31337

BLOCK_SECONDS = 1
"""Time between blocks: long enough to see confirmations grow, short enough for a demo."""

STATE_SECONDS = 1
"""Pause between two copies of the chain to disk: how much of it a kill can lose."""

MAX_PERSISTED_STATES = 1_000
"""Past states kept on disk for calls at older blocks."""

START_SECONDS = 30.0
"""Limit from start to healthy, loading a kept chain included (measured 0.2 s)."""

STOP_WAIT_SECONDS = 45
"""The keeper writes a last copy of the chain, then ends Anvil."""


def prepare(folder: StateFolder, _port: int, environment: Mapping[str, str]) -> None:
    """Fetch the pinned binary for this platform unless ANVIL_BINARY names one."""
    folder.data(NAME)
    if not environment.get(BINARY_SETTING):
        npm_packages.fetch(_package_name(), folder.root)
    binary(folder, environment)


def program(folder: StateFolder, port: int, environment: Mapping[str, str]) -> Program:
    """Anvil under its keeper, in the foreground, on the loopback address."""
    home = folder.data(NAME)
    anvil = [
        str(binary(folder, environment)),
        "--host",
        HOST,
        "--port",
        str(port),
        "--chain-id",
        str(CHAIN_ID),
        "--block-time",
        str(BLOCK_SECONDS),
        "--accounts",
        "0",
        "--cache-path",
        str(home / "cache"),
        "--max-persisted-states",
        str(MAX_PERSISTED_STATES),
        "--no-cors",
        "--quiet",
    ]
    keeper = [
        str(Path(anvil_keeper.__file__).resolve()),
        str(state_file(folder)),
        str(port),
        str(STATE_SECONDS),
    ]
    return Program(
        name=NAME,
        argv=[sys.executable, "-S", "-P", "-B", *keeper, "--", *anvil],
        stop_wait_seconds=STOP_WAIT_SECONDS,
        priority=10,
        cwd=home,
    )


def url(_folder: StateFolder, port: int) -> str:
    """The node's JSON-RPC address."""
    return f"http://{HOST}:{port}"


def probe(address: str) -> Health:
    """Healthy when it tells its chain id."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": list[str]()}
    try:
        answer = httpx.post(address, json=request, timeout=PROBE_SECONDS, verify=authorities_for(address))
        answer.raise_for_status()
        int(answer.json()["result"], 16)
    except httpx.HTTPStatusError as error:  # its text has the address, which may hold a provider's key
        return Health(ok=False, reason=f"eth_chainId was answered with HTTP {error.response.status_code}")
    except httpx.HTTPError as error:
        return Health(ok=False, reason=f"eth_chainId: {type(error).__name__}")
    except (ValueError, KeyError, TypeError):
        return Health(ok=False, reason="eth_chainId was not answered with a number")
    return HEALTHY


def state_file(folder: StateFolder) -> Path:
    """Where the chain is kept."""
    return folder.data(NAME) / "state.json"


def persisted_block(folder: StateFolder) -> int | None:
    """The newest block of the kept chain: up to here it survives a kill. None before the first copy."""
    path = state_file(folder)
    if not path.exists():
        return None
    return int(json.loads(path.read_text(encoding="utf-8"))["best_block_number"])


def binary(folder: StateFolder, environment: Mapping[str, str]) -> Path:
    """The anvil to run: ANVIL_BINARY, else the fetched package's. EmbeddedServiceError when it is no
    executable."""
    named = environment.get(BINARY_SETTING)
    path = Path(named) if named else npm_packages.package(_package_name()).folder(folder.root) / "bin" / "anvil"
    if not path.is_absolute() or not os.access(path, os.X_OK):
        msg = f"{BINARY_SETTING}: expected the absolute path of an executable anvil, got {str(path)!r}."
        raise EmbeddedServiceError(msg)
    return path


def _package_name() -> str:
    here = (platform.system(), platform.machine())
    for candidate in npm_packages.pinned():
        if (candidate.system, candidate.machine) == here:
            return candidate.name
    msg = (
        f"Anvil is not pinned for {here[0]} on {here[1]}: set {BINARY_SETTING} to an anvil on this machine, "
        "or "
        f"{SETTING} to a development chain that runs already."
    )
    raise EmbeddedServiceError(msg)


SERVER = EmbeddedServer(NAME, SETTING, START_SECONDS, prepare, program, url, probe, probe, nothing_to_settle)
