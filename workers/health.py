"""Signs of life: each long-running process touches a file when it has really done something.

A process that is up but stuck (a half-open broker, a lost connection) stops touching it. ``python -m workers.health
NAME`` exits 1 when the file is missing or too old: the health check of docker-compose.yml. For processes with a door
it takes the door's URL instead.
"""

import sys
from pathlib import Path
from time import time
from typing import Final

from custody.settings.environment import settings

SILENT_SECONDS: Final = 120
"""Longer silence is no life: the slowest process that is checked, housekeeping, is rung every 60 s."""

HTTP_SECONDS: Final = 3.0
SAID_LENGTH_MAXIMUM: Final = 200  # a line of a table

_name: list[str] = []


def name_process(name: str) -> None:
    """Say once which process this is; forked children inherit it."""
    _name[:] = [name]


def process_name() -> str:
    """What ``name_process`` was told, or an empty text."""
    return _name[0] if _name else ""


def sign(name: str, state_dir: Path | None = None) -> Path:
    """The file of that process, in this process's own state folder unless another is named."""
    return (state_dir or settings().fleet_state_dir) / "health" / name


def alive(said: str = "") -> None:
    """Touch this process's file, with a few words for `fleet status` in it. Does nothing in a process without a name."""
    if _name:
        path = sign(_name[0])
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if said:
            path.write_text(said, encoding="utf-8")
        else:
            path.touch()


def said_by(name: str, state_dir: Path | None = None) -> str:
    """What the process last said of itself; an empty text where it says nothing."""
    path = sign(name, state_dir)
    return path.read_text(encoding="utf-8", errors="replace")[:SAID_LENGTH_MAXIMUM] if path.exists() else ""


def seconds_since(name: str, state_dir: Path | None = None) -> float | None:
    """Seconds since the process last touched its file, or None when it never did."""
    path = sign(name, state_dir)
    return max(0.0, time() - path.stat().st_mtime) if path.exists() else None


def is_alive(name: str, *, within_seconds: float = SILENT_SECONDS) -> bool:
    """Whether it has done something within that time."""
    age = seconds_since(name)
    return age is not None and age <= within_seconds


def answers(url: str) -> bool:
    """Whether a door of the fleet says that it is well (HTTP 200)."""
    import httpx

    from workers.tls import authorities_for

    try:
        found = httpx.get(url, timeout=HTTP_SECONDS, trust_env=False, verify=authorities_for(url))
        return found.status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """``python -m workers.health NAME|URL``: exit code 0 when that process is alive, or the URL answers 200."""
    if len(sys.argv) != 2:
        sys.exit("expected one argument: a process's name, for example worker-webhooks, or a URL")
    what = sys.argv[1]
    if what.startswith("http://"):
        if not answers(what):
            sys.exit(f"{what} does not answer 200")
    elif not is_alive(what):
        sys.exit(f"{what} has done nothing for {SILENT_SECONDS} s")


if __name__ == "__main__":
    main()
