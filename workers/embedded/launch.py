"""Start one supervised program: `python launch.py SPEC`, where SPEC is its file of arguments and environment.

The process leaves a record of itself (pid and start time) and then becomes the program by exec, so that a
later command can prove which processes are this fleet's own even after the supervisor was killed. Secrets
stay in SPEC (mode 0600), not in arguments or in the supervisor's configuration.

It runs before every program, so it imports the standard library only and is called by path, without site
packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypedDict, cast

MARK = "FLEET_SUPERVISED"
"""Environment variable `<state folder>:<program>`: a program's children inherit it, so that they are found
too."""

_PROC = Path("/proc")
_STAT_STATE, _STAT_START = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted after the command's ')'


class Spec(TypedDict):
    """What a program's file holds. `daemon` detaches it from the caller; `log` is then where its output
    goes."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    record: str
    fleet: str
    stop_signal: str
    daemon: bool
    log: str


class Record(TypedDict):
    """What a started process writes about itself."""

    name: str
    pid: int
    started: str
    stop_signal: str


def started(pid: int) -> str | None:
    """When process PID started, as text that no later process with the same number repeats; None if it is
    gone."""
    if _PROC.joinpath("self", "stat").exists():
        try:
            fields = _PROC.joinpath(str(pid), "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            return None
        values = fields[2].split()
        if values[_STAT_STATE] in {"Z", "X"}:  # dead, only not yet collected by its parent
            return None
        boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}:{values[_STAT_START]}"
    found = subprocess.run(
        ["/bin/ps", "-p", str(pid), "-o", "stat=,lstart="], capture_output=True, text=True, check=False
    )
    state, _, when = found.stdout.strip().partition(" ")
    return when.strip() if when and not state.startswith("Z") else None


def marked(fleet: str, program: str | None = None) -> list[int]:
    """Living processes that bear the mark of the folder FLEET, of one PROGRAM or of all (Linux only)."""
    needle = f"{MARK}={fleet}:{program or ''}".encode()
    found: list[int] = []
    for entry in _PROC.glob("[0-9]*/environ"):
        pid = int(entry.parent.name)
        try:
            variables = entry.read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        bears = needle in variables if program else any(v.startswith(needle) for v in variables)
        if bears and pid != os.getpid() and started(pid):
            found.append(pid)
    return found


def _detach(log: str) -> None:
    # Twice forked: the program belongs to init, so no caller has to collect it.
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)


def _end_leftovers(fleet: str, program: str) -> None:
    # Children of a killed predecessor (a worker's pool) must not work beside its successor.
    for pid in marked(fleet, program):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def main(path: str) -> None:
    """Become the program that the file PATH describes."""
    spec = cast("Spec", json.loads(Path(path).read_text(encoding="utf-8")))
    os.umask(0o077)  # whatever a program writes is its user's own
    if spec["daemon"]:
        _detach(spec["log"])
    _end_leftovers(spec["fleet"], spec["name"])
    record: Record = {
        "name": spec["name"],
        "pid": os.getpid(),
        "started": started(os.getpid()) or "",
        "stop_signal": spec["stop_signal"],
    }
    temporary = Path(f"{spec['record']}.{os.getpid()}")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(spec["record"])
    if spec["cwd"]:
        os.chdir(spec["cwd"])
    env = {**spec["env"], MARK: f"{spec['fleet']}:{spec['name']}"}
    os.execve(spec["argv"][0], spec["argv"], env)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
