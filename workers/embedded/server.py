"""What every embedded server has in common: how it is prepared, started, reached and asked for its health."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.state_folder import StateFolder
from workers.embedded.supervision import Program

HEALTH_POLL_SECONDS = 0.03
"""Pause between two health probes while a server starts."""

PROBE_SECONDS = 2
"""Longest time one health probe may take: loopback answers in milliseconds, a replaced server within this."""


@dataclass(frozen=True)
class Health:
    """Whether a server answers as it should, and if not, why."""

    ok: bool
    reason: str


HEALTHY = Health(ok=True, reason="ok")


@dataclass(frozen=True)
class EmbeddedServer:
    """One server the fleet can run itself.

    `setting` names the environment variable whose URL replaces it. `prepare` is idempotent and makes
    everything the server needs on disk; `program` and `url` need no running server; `probe` never raises;
    `settle` makes what can only be made in a running server (a database, a replica set), idempotently;
    `answers` is the weaker probe that holds before that.
    """

    name: str
    setting: str
    start_seconds: float
    prepare: Callable[[StateFolder, int, Mapping[str, str]], None]
    program: Callable[[StateFolder, int, Mapping[str, str]], Program]
    url: Callable[[StateFolder, int], str]
    answers: Callable[[str], Health]
    probe: Callable[[str], Health]
    settle: Callable[[StateFolder, int], None]


def wait_until(server: EmbeddedServer, probe: Callable[[str], Health], url: str) -> None:
    """Probe URL until it is healthy; EmbeddedServiceError with the last reason after the server's start
    limit."""

    def is_ill(health: Health) -> bool:
        return not health.ok

    attempts = Retrying(
        stop=stop_after_delay(server.start_seconds),
        wait=wait_fixed(HEALTH_POLL_SECONDS),
        retry=retry_if_result(is_ill),
    )
    try:
        attempts(probe, url)
    except RetryError as failure:
        last: Health = failure.last_attempt.result()
        msg = (
            f"{server.name} was not healthy within {server.start_seconds:.0f} s: {last.reason}. Read its "
            "log in the "
            f"state folder, or set {server.setting} to a server that runs already."
        )
        raise EmbeddedServiceError(msg) from None


def nothing_to_settle(_folder: StateFolder, _port: int) -> None:
    """For a server that is complete once it answers."""
