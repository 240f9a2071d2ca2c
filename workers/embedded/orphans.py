"""End what a killed supervisor left running, and nothing else.

A process counts as this fleet's own when it wrote a record whose pid and start time still match, or when it
carries this state folder's mark in its environment (see `launch`). Anything else on the same port or with
the same pid is somebody else's and is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import structlog
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from workers.embedded import launch
from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.state_folder import StateFolder

GRACE_SECONDS = 20.0
"""How long orphans may take to stop on their own signal before SIGKILL: a database's fast shutdown, with
margin."""

KILL_SECONDS = 10.0
"""How long a killed process may take to vanish before that is reported as an error."""

POLL_SECONDS = 0.02
"""How often the end of a process is looked for; it is not our child, so it cannot be waited for."""

_log = structlog.get_logger(__name__)


def read_record(path: Path) -> launch.Record | None:
    """The record in PATH if its process still runs and is the very one that wrote it, otherwise None."""
    try:
        record = cast("launch.Record", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    if not record["started"] or launch.started(record["pid"]) != record["started"]:
        return None
    return record


def living(folder: StateFolder) -> list[launch.Record]:
    """Every process of this fleet that provably still runs, by its record or by its mark."""
    records = [record for path in sorted(folder.records.glob("*.json")) if (record := read_record(path))]
    known = {record["pid"] for record in records}
    for pid in launch.marked(folder.mark):
        if pid not in known and (when := launch.started(pid)):
            records.append({"name": "child", "pid": pid, "started": when, "stop_signal": "TERM"})
    return records


def end_all(folder: StateFolder, grace_seconds: float = GRACE_SECONDS) -> list[str]:
    """Stop every living process of this fleet and return their names.

    Each gets its own stop signal first and SIGKILL after `grace_seconds`. Raises EmbeddedServiceError when
    one survives even that.
    """
    records = living(folder)
    if not records:
        return []
    names = sorted({record["name"] for record in records})
    _log.warning("ending_orphans", names=names, pids=[record["pid"] for record in records])
    for record in records:
        _signal(record, record["stop_signal"])
    if not wait_gone(records, grace_seconds):
        records = living(folder)
        for record in records:
            _signal(record, "KILL")
        if not wait_gone(records, KILL_SECONDS):
            left = [record["pid"] for record in living(folder)]
            msg = f"Processes {left} of this fleet did not end after SIGKILL; look at them with ps, then try again."
            raise EmbeddedServiceError(msg)
    # A parent that ended may have left children that ignored its end.
    for record in living(folder):
        _signal(record, "KILL")
    return names


def wait_gone(records: Iterable[launch.Record], seconds: float) -> bool:
    """Wait until none of these processes runs; False when one still does after `seconds`."""
    watched = list(records)

    def any_left() -> bool:
        return any(launch.started(record["pid"]) == record["started"] for record in watched)

    attempts = Retrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(POLL_SECONDS),
        retry=retry_if_result(lambda left: left),
    )
    try:
        attempts(any_left)
    except RetryError:
        return False
    return True


def _signal(record: launch.Record, name: str) -> None:
    if launch.started(record["pid"]) == record["started"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record["pid"], signal.Signals[f"SIG{name}"])
