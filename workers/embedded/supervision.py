"""Supervision of the services and the fleet's processes by the `supervisor` library.

supervisord runs as a daemon, restarts what dies, rotates logs, and is spoken to over a unix socket in the
short run folder (mode 0700, random password). Arguments and environment of each program are in a file of
mode 0600 that `launch` reads, so that no secret is on a command line or in the supervisor's own
configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import shlex
import sys
import xmlrpc.client
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import structlog
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from workers.embedded import launch, orphans
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.state_folder import StateFolder, secret, write_private

START_SECONDS = 15.0
"""How long supervisord may take until it answers; it takes 0.3 s on an idle machine."""

STOP_MARGIN_SECONDS = 10.0
"""How long supervisord may take to end beyond the sum of its programs' own stop times."""

START_RETRIES = 100
"""Failed starts in a row before a program is given up. supervisord waits one second longer after each."""

START_SETTLED_SECONDS = 1
"""A program that lived this long has started; one that dies sooner is tried again with a growing pause."""

LOG_BYTES = 10 * 1024 * 1024
"""Size at which a program's log is rotated."""

LOG_BACKUPS = 3
"""Rotated logs that are kept for each program."""

POLL_SECONDS = 0.03
"""How often an answer of the starting supervisor is looked for."""

INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""All that a program gets from the caller's environment: a process knows only the settings it is given."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_SUPERVISOR = "supervisord"
_log = structlog.get_logger(__name__)

StopSignal = Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"]
Autorestart = Literal["true", "false", "unexpected"]


@dataclass(frozen=True)
class Program:
    """One process to keep running. `argv[0]` is an absolute path; `env` may hold secrets (kept in a 0600
    file).

    Lower `priority` starts earlier and stops later. `stop_wait_seconds` passes before SIGKILL.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stop_signal: StopSignal = "TERM"
    stop_wait_seconds: int = 60
    autorestart: Autorestart = "true"
    priority: int = 500
    log_file: Path | None = None
    cwd: Path | None = None


@dataclass(frozen=True)
class ProgramState:
    """A program as supervisord sees it; `uptime` in seconds, 0 when it does not run."""

    name: str
    pid: int | None
    state: str
    uptime: int


def is_running(folder: StateFolder) -> bool:
    """Whether this folder's supervisord runs."""
    return orphans.read_record(folder.records / f"{_SUPERVISOR}.json") is not None


def start(folder: StateFolder, programs: Sequence[Program]) -> None:
    """Make sure that supervisord runs and keeps these programs running, beside those it already has.

    A program whose definition changed is restarted; one that was given up is started again. When
    supervisord was killed, what it left is ended first. Raises EmbeddedServiceError when supervisord does
    not come up.
    """
    for program in programs:
        _check(program)
    with folder.lock("supervision"):
        if not is_running(folder):
            orphans.end_all(folder)
            for stale in folder.programs.glob("*.json"):
                stale.unlink()
            _write(folder, programs)
            _start_supervisord(folder)
            return
        _write(folder, programs)
        with _connect(folder) as supervisor:
            _apply(supervisor)
            for program in programs:
                _ensure_started(supervisor, program.name)


def remove(folder: StateFolder, names: Sequence[str]) -> None:
    """Stop these programs and forget them; unknown names are no error."""
    with folder.lock("supervision"):
        for name in names:
            for path in (folder.programs / f"{name}.json", folder.programs / f"{name}.conf"):
                path.unlink(missing_ok=True)
        _write(folder, [])
        if is_running(folder):
            with _connect(folder) as supervisor:
                _apply(supervisor)


def stop(folder: StateFolder) -> None:
    """Stop every program, the later priorities first, and supervisord itself; leave no process behind."""
    with folder.lock("supervision"):
        record = orphans.read_record(folder.records / f"{_SUPERVISOR}.json")
        if record is not None:
            seconds = STOP_MARGIN_SECONDS + sum(
                int(json.loads(path.read_text(encoding="utf-8"))["stop_wait_seconds"])
                for path in folder.programs.glob("*.json")
            )
            with contextlib.suppress(OSError, EmbeddedServiceError), _connect(folder) as supervisor:
                _stop_by_priority(folder, supervisor, seconds)
                supervisor.shutdown()
            orphans.wait_gone([record], seconds)
        orphans.end_all(folder)


def states(folder: StateFolder) -> list[ProgramState]:
    """Every program supervisord knows, by priority; empty when it does not run."""
    if not is_running(folder):
        return []
    with _connect(folder) as supervisor:
        rows = cast("list[dict[str, Any]]", supervisor.getAllProcessInfo())
    return [
        ProgramState(
            name=str(row["name"]),
            pid=int(row["pid"]) or None,
            state=str(row["statename"]),
            uptime=int(row["now"]) - int(row["start"]) if row["pid"] else 0,
        )
        for row in rows
    ]


def restart(folder: StateFolder, name: str) -> None:
    """Stop (within its stop time) and start one program; EmbeddedServiceError when there is none of that
    name."""
    with folder.lock("supervision"), _connect(folder) as supervisor:
        try:
            supervisor.stopProcess(name)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                known = ", ".join(state.name for state in states(folder))
                msg = f"{name!r} cannot be restarted ({fault.faultString}); the programs are: {known}."
                raise EmbeddedServiceError(msg) from None
        _ensure_started(supervisor, name)


def log_path(folder: StateFolder, name: str) -> Path:
    """Where a program without its own `log_file` logs to."""
    return folder.logs / f"{name}.log"


def _check(program: Program) -> None:
    if not _NAME.fullmatch(program.name) or program.name == _SUPERVISOR:
        msg = f"Program name {program.name!r}: expected lower-case letters, digits, '-', '_' or '.'."
        raise EmbeddedServiceError(msg)
    if not program.argv or not Path(program.argv[0]).is_absolute() or not os.access(program.argv[0], os.X_OK):
        msg = f"Program {program.name}: argv[0] must be the absolute path of an executable: {list(program.argv)[:1]}."
        raise EmbeddedServiceError(msg)


def _base_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}


def _launcher(spec: Path) -> list[str]:
    return [sys.executable, "-S", "-P", "-B", str(Path(launch.__file__).resolve()), str(spec)]


def _spec(folder: StateFolder, name: str, argv: Sequence[str], env: Mapping[str, str]) -> launch.Spec:
    return {
        "name": name,
        "argv": list(argv),
        "env": {**_base_environment(), **env},
        "cwd": "",
        "record": str(folder.records / f"{name}.json"),
        "fleet": folder.mark,
        "stop_signal": "TERM",
        "daemon": False,
        "log": "",
    }


def _write(folder: StateFolder, programs: Sequence[Program]) -> None:
    key = secret(folder.root / "supervision" / "password").encode()
    for program in programs:
        spec = _spec(folder, program.name, program.argv, program.env)
        spec["cwd"] = str(program.cwd or Path.cwd())
        spec["stop_signal"] = program.stop_signal
        path = folder.programs / f"{program.name}.json"
        own = {"stop_wait_seconds": program.stop_wait_seconds, "priority": program.priority}
        write_private(path, json.dumps({**spec, **own}, sort_keys=True))
        # supervisord compares configurations: a keyed digest shows it that a program's environment changed, and shows
        # nobody what is in it. The caller's own variables and folder are no part of it: another shell changes nothing.
        defined = {**spec, **own, "env": dict(program.env), "cwd": str(program.cwd or "")}
        digest = hmac.new(key, json.dumps(defined, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:16]
        log = program.log_file or log_path(folder, program.name)
        lines = {
            "command": shlex.join([*_launcher(path), digest]),
            "priority": program.priority,
            "autostart": "true",
            "autorestart": program.autorestart,
            "startsecs": START_SETTLED_SECONDS,
            "startretries": START_RETRIES,
            "stopsignal": program.stop_signal,
            "stopwaitsecs": program.stop_wait_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": log,
            "stdout_logfile_maxbytes": LOG_BYTES,
            "stdout_logfile_backups": LOG_BACKUPS,
        }
        write_private(folder.programs / f"{program.name}.conf", _section(f"program:{program.name}", lines))
    for orphaned in folder.programs.glob("*.conf"):
        if not orphaned.with_suffix(".json").exists():
            orphaned.unlink()
    write_private(_configuration(folder), _main_section(folder, key.decode()))


def _configuration(folder: StateFolder) -> Path:
    return folder.root / "supervision" / "supervisord.conf"


def _main_section(folder: StateFolder, password: str) -> str:
    daemon: dict[str, object] = {
        "nodaemon": "true",  # `launch` detaches it, and records it before it begins
        "silent": "true",  # its log file is rotated, its standard output would not be
        "logfile": folder.logs / "supervisord.log",
        "logfile_maxbytes": LOG_BYTES,
        "logfile_backups": LOG_BACKUPS,
        "pidfile": folder.run / "supervisord.pid",
        "childlogdir": folder.logs,
        "umask": "077",
        "identifier": "amanat-fleet",
    }
    if os.geteuid() == 0:
        daemon["user"] = "root"
    return (
        _section(
            "unix_http_server",
            {"file": _socket(folder), "chmod": "0600", "username": "fleet", "password": password},
        )
        + _section("supervisord", daemon)
        + _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        )
        + _section("include", {"files": "programs/*.conf"})  # relative: it is split at blanks
    )


def _section(name: str, values: Mapping[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={_escape(value)}\n" for key, value in values.items()) + "\n"


def _escape(value: object) -> str:
    text = str(value)
    if "\n" in text or " ;" in text or " #" in text:
        msg = f"{text!r} cannot be written into the supervisor's configuration; use a plainer path."
        raise EmbeddedServiceError(msg)
    return text.replace("%", "%%")


def _socket(folder: StateFolder) -> Path:
    return folder.run / "supervisor.sock"


def _start_supervisord(folder: StateFolder) -> None:
    argv = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(_configuration(folder))]
    spec = _spec(folder, _SUPERVISOR, argv, {})
    spec["cwd"] = str(folder.root)
    spec["daemon"] = True
    spec["log"] = str(folder.logs / "supervisord.err.log")
    path = folder.root / "supervision" / f"{_SUPERVISOR}.json"
    write_private(path, json.dumps(spec))
    _run_launcher(path)
    attempts = Retrying(
        stop=stop_after_delay(START_SECONDS),
        wait=wait_fixed(POLL_SECONDS),
        retry=retry_if_exception_type((OSError, EmbeddedServiceError, xmlrpc.client.Error)),
    )
    try:
        attempts(_ping, folder)
    except RetryError:
        msg = f"supervisord did not answer within {START_SECONDS:.0f} s; read {spec['log']} and supervisord.log."
        raise EmbeddedServiceError(msg) from None
    _log.info("supervisor_started", configuration=str(_configuration(folder)))


def _run_launcher(spec: Path) -> None:
    pid = os.posix_spawn(sys.executable, _launcher(spec), _base_environment())
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        msg = f"supervisord could not be launched from {spec}; is {sys.executable} usable?"
        raise EmbeddedServiceError(msg)


def _ping(folder: StateFolder) -> None:
    with _connect(folder) as supervisor:
        supervisor.getState()


@contextlib.contextmanager
def _connect(folder: StateFolder) -> Generator[Any]:
    # The library's proxy is untyped: everything that comes out of it is checked or cast where it is used.
    from supervisor.xmlrpc import SupervisorTransport

    transport: Any = SupervisorTransport(
        "fleet", secret(folder.root / "supervision" / "password"), f"unix://{_socket(folder)}"
    )
    try:
        yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    except (FileNotFoundError, ConnectionRefusedError):
        msg = "The supervisor does not run; start it with `fleet up`."
        raise EmbeddedServiceError(msg) from None
    finally:
        transport.close()


def _apply(supervisor: Any) -> None:
    added, changed, removed = cast("list[list[list[str]]]", supervisor.reloadConfig())[0]
    for name in [*changed, *removed]:
        supervisor.stopProcessGroup(name)
        supervisor.removeProcessGroup(name)
    for name in [*added, *changed]:
        supervisor.addProcessGroup(name)


def _stop_by_priority(folder: StateFolder, supervisor: Any, seconds: float) -> None:
    # supervisord alone would stop one program after the other; those of one priority may end together.
    by_priority: dict[int, list[str]] = {}
    for path in folder.programs.glob("*.json"):
        priority = int(json.loads(path.read_text(encoding="utf-8")).get("priority", 0))
        by_priority.setdefault(priority, []).append(path.stem)
    for priority in sorted(by_priority, reverse=True):
        records = [orphans.read_record(folder.records / f"{name}.json") for name in by_priority[priority]]
        for name in by_priority[priority]:
            with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
                wait = False
                supervisor.stopProcess(name, wait)
        orphans.wait_gone([record for record in records if record], seconds)


def _ensure_started(supervisor: Any, name: str) -> None:
    try:
        wait = False
        supervisor.startProcess(name, wait)
    except xmlrpc.client.Fault as fault:
        if "ALREADY_STARTED" not in fault.faultString:
            msg = f"{name} could not be started: {fault.faultString}"
            raise EmbeddedServiceError(msg) from None
