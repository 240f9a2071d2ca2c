"""The doors of this room: `up`, `start_processes`, `status`, `down`.

`up` is idempotent: what runs and is healthy stays as it is. A server whose URL setting is given is not
started, only asked for its health.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog

from workers.embedded import anvil, mongo, orphans, ports, postgres, supervision, valkey
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.server import EmbeddedServer, Health, wait_until
from workers.embedded.state_folder import StateFolder, write_private
from workers.embedded.supervision import Program

SERVERS: tuple[EmbeddedServer, ...] = (postgres.SERVER, valkey.SERVER, mongo.SERVER, anvil.SERVER)

_SECRET_WORDS = ("pass", "secret", "token", "key")

LOG_TAIL_LINES = 5
"""How much of a failed server's log goes into the error."""

Progress = Callable[[str], None]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Services:
    """Where the servers are. The URLs hold passwords: log `status`, not this."""

    state_dir: Path
    database_admin_url: str
    broker_url: str
    mongo_url: str
    chain_rpc_url: str

    def settings(self) -> dict[str, str]:
        """The URLs by the name of the setting that carries each."""
        return {
            postgres.SETTING: self.database_admin_url,
            valkey.SETTING: self.broker_url,
            mongo.SETTING: self.mongo_url,
            anvil.SETTING: self.chain_rpc_url,
        }

    def __repr__(self) -> str:
        masked = ", ".join(f"{name}={mask(url)}" for name, url in self.settings().items())
        return f"Services({masked})"


@dataclass(frozen=True)
class ServiceStatus:
    """One server or process. `url` has its password masked and is empty for a process; `pid` is None when the server
    is not ours or does not run; `health` is "ok" or the reason why not. A process has `uptime_seconds`."""

    name: str
    url: str
    pid: int | None
    health: str
    uptime_seconds: int = 0

    @property
    def ok(self) -> bool:
        """Whether it is healthy."""
        return self.health == "ok"


def up(
    state_dir: Path | str,
    environment: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    servers: Sequence[EmbeddedServer] = SERVERS,
) -> Services:
    """Start what is not running yet, wait until all four servers are healthy, and return their addresses.

    `servers`: those that are wanted, where not all four are; another's address is empty.

    `environment` (default: this process's) is where DATABASE_ADMIN_URL, BROKER_URL, MONGO_URL,
    CHAIN_RPC_URL and ANVIL_BINARY are looked up. Raises EmbeddedServiceError, with what to do, when one
    cannot be had; what did start keeps running.
    """
    variables = os.environ if environment is None else environment
    folder = StateFolder.open(state_dir)
    with folder.lock("up"):
        given = {server.name: variables[server.setting] for server in servers if variables.get(server.setting)}
        own = [server for server in servers if server.name not in given]
        # So that `status` asks the right servers when it is called without these variables.
        write_private(_given_path(folder), json.dumps(given) + "\n")
        supervision.start(folder, [])  # ends what a killed supervisor left, before ports are judged
        supervision.remove(folder, sorted(given))
        running = {state.name for state in supervision.states(folder) if state.pid}
        with folder.lock("ports"):
            chosen = ports.choose(folder, [server.name for server in own], running)
        addresses = dict(given)
        with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
            waiting: dict[str, Future[None]] = {}
            for server in own:
                port = chosen[server.name]
                addresses[server.name] = server.url(folder, port)
                waiting[server.name] = pool.submit(_start, server, folder, port, variables, progress)
            for server in servers:
                if server.name in given:
                    waiting[server.name] = pool.submit(_check_given, server, given[server.name], progress)
        _raise_first(waiting)
    return Services(
        folder.root,
        *(addresses.get(server.name, "") for server in (postgres.SERVER, valkey.SERVER, mongo.SERVER, anvil.SERVER)),
    )


def process_ports(state_dir: Path | str, names: Sequence[str]) -> dict[str, int]:
    """A port on the loopback address for each of these programs (the ingress, Flower, …), remembered as the
    servers' are. A program that runs keeps its own; the name is the program's."""
    folder = StateFolder.open(state_dir)
    running = {state.name for state in supervision.states(folder) if state.pid}
    with folder.lock("ports"):
        return ports.choose(folder, list(names), running)


def start_processes(
    state_dir: Path | str, programs: Sequence[Program], progress: Progress | None = None
) -> list[supervision.ProgramState]:
    """Keep the fleet's own processes running beside the servers; `up` comes first.

    Starting is not waiting: ask `status`, or the process itself, for its health.
    """
    folder = StateFolder.open(state_dir)
    names = {server.name for server in SERVERS}
    clashes = [program.name for program in programs if program.name in names]
    if clashes:
        msg = f"{', '.join(clashes)}: these names belong to the servers; choose others."
        raise EmbeddedServiceError(msg)
    with folder.lock("up"):
        supervision.start(folder, programs)
    if progress:
        progress(f"started {', '.join(program.name for program in programs)}")
    wanted = {program.name for program in programs}
    return [state for state in supervision.states(folder) if state.name in wanted]


def status(state_dir: Path | str, environment: Mapping[str, str] | None = None) -> list[ServiceStatus]:
    """Every server (asked now) and every supervised process, servers first. Starts nothing."""
    variables = os.environ if environment is None else environment
    folder = StateFolder.open(state_dir)
    running = {state.name: state for state in supervision.states(folder)}
    remembered = ports.remembered(folder)
    path = _given_path(folder)
    given_before: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def ask(server: EmbeddedServer) -> ServiceStatus:
        given = variables.get(server.setting) or given_before.get(server.name)
        if given:
            return ServiceStatus(server.name, mask(given), None, _text(server.probe(given), given))
        state = running.pop(server.name, None)
        port = remembered.get(server.name)
        if port is None:
            return ServiceStatus(server.name, "", None, "not started; run `fleet up`")
        address = server.url(folder, port)
        if state is None or state.pid is None:
            orphan = orphans.read_record(folder.records / f"{server.name}.json")
            if orphan is not None:
                reason = "runs without its supervisor; run `fleet up`"
                return ServiceStatus(server.name, mask(address), orphan["pid"], reason)
            reason = f"not running ({state.state})" if state else "not running; run `fleet up`"
            return ServiceStatus(server.name, mask(address), None, reason)
        return ServiceStatus(server.name, mask(address), state.pid, _text(server.probe(address), address))

    with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
        found = list(pool.map(ask, SERVERS))
    names = {server.name for server in SERVERS}
    return found + [
        ServiceStatus(
            state.name, "", state.pid, "ok" if state.state == "RUNNING" else state.state.lower(), state.uptime
        )
        for state in running.values()
        if state.name not in names
    ]


def down(state_dir: Path | str, progress: Progress | None = None) -> None:
    """Stop every process and server of this folder; data stays. Nothing of it runs afterwards."""
    folder = StateFolder.open(state_dir)
    with folder.lock("up"):
        if progress:
            progress("stopping")
        supervision.stop(folder)
        shutil.rmtree(folder.run)
    _log.info("services_stopped", state_dir=str(folder.root))


def _given_path(folder: StateFolder) -> Path:
    return folder.root / "given_servers.json"


def mask(url: str) -> str:
    """URL with its password, any secret in its query, and a node's path (providers put keys there) as ***."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if ":" in user:
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}")
    if parts.scheme in {"http", "https", "ws", "wss"} and (parts.path.strip("/") or parts.query):
        parts = parts._replace(path="/***", query="")
    query = [
        (key, "***" if any(word in key.lower() for word in _SECRET_WORDS) else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return parts._replace(query=urlencode(query, safe="*/:,")).geturl()


def _start(
    server: EmbeddedServer,
    folder: StateFolder,
    port: int,
    environment: Mapping[str, str],
    progress: Progress | None,
) -> None:
    address = server.url(folder, port)
    try:
        server.prepare(folder, port, environment)
        supervision.start(folder, [server.program(folder, port, environment)])
        wait_until(server, server.answers, address)
        server.settle(folder, port)
        wait_until(server, server.probe, address)
    except EmbeddedServiceError as error:
        raise EmbeddedServiceError(f"{error}{_log_tail(folder, server.name)}") from error
    except Exception as error:
        reason = _without_secrets(f"{type(error).__name__}: {error}", address)
        msg = (
            f"could not be started: {reason}. Set {server.setting} to a server that runs already, or read "
            "its log."
            f"{_log_tail(folder, server.name)}"
        )
        raise EmbeddedServiceError(msg) from None
    if progress:
        progress(f"{server.name} is ready")
    _log.info("service_ready", service=server.name, url=mask(address))


def _check_given(server: EmbeddedServer, url: str, progress: Progress | None) -> None:
    health = server.probe(url)
    if not health.ok:
        msg = f"{server.setting} names {mask(url)}, which is not healthy: {_text(health, url)}"
        raise EmbeddedServiceError(msg)
    if progress:
        progress(f"{server.name} is given by {server.setting}")


def _raise_first(waiting: Mapping[str, Future[None]]) -> None:
    failed = {name: error for name, future in waiting.items() if (error := future.exception())}
    if not failed:
        return
    for name, error in failed.items():
        _log.error("service_failed", service=name, error=str(error))
    raise EmbeddedServiceError("\n".join(f"{name}: {error}" for name, error in failed.items()))


def _text(health: Health, url: str) -> str:
    return "ok" if health.ok else _without_secrets(health.reason, url)


def _without_secrets(text: str, url: str) -> str:
    password = urlsplit(url).password
    text = text.replace(url, mask(url))
    return text.replace(password, "***") if password else text


def _log_tail(folder: StateFolder, name: str) -> str:
    path = supervision.log_path(folder, name)
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = deque(file, maxlen=LOG_TAIL_LINES)
    return f"\nThe last lines of {path}:\n{''.join(lines).strip()}" if lines else ""
