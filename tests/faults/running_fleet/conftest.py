"""One running fleet for every test that needs the whole of it (L23)."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.state_folders import forget, state_folder
from workers.demo.fleet import DevelopmentFleet, start
from workers.demo.run import Demo, DemoResult
from workers.demo.stages import Pace
from workers.embedded import orphans, services, supervision
from workers.embedded.state_folder import StateFolder

STATE_DIR = state_folder("test-fleet", "FLEET_TEST_FLEET_STATE_DIR")


@pytest.fixture(scope="package")
def running_fleet() -> Iterator[DevelopmentFleet]:
    """Servers and every process, under supervision, on a development chain of their own.

    They end with this package's last test: left running they take a third of a core from all others.
    """
    try:
        yield start(STATE_DIR)
    finally:
        services.down(STATE_DIR)
    assert orphans.living(StateFolder.open(STATE_DIR)) == []
    forget(STATE_DIR)


PAYMENTS = 50

# Each is killed at the moment when it has something to lose: (stage, how many payments reached it) -> who dies.
MOMENTS: dict[tuple[str, int], tuple[str, ...]] = {
    ("opened", PAYMENTS): ("worker-housekeeping",),
    ("paid", PAYMENTS): ("beat",),
    ("announced", 3): ("worker-webhooks",),
    ("announced", PAYMENTS): ("relay",),
    ("detected", 1): ("worker-confirmations", "watcher"),
    ("held", 1): ("valkey",),
    ("held", PAYMENTS): ("worker-sweeps", "keys-agent"),
    ("swept", 1): ("worker-mirror",),
    # Releases and the mirror need MongoDB from the first signature on.
    ("signed", 1): ("mongo",),
    ("signed", 2): ("worker-releases",),
}


class Killer:
    """Kills each process once, when the demo reports its moment; the supervisor starts it again."""

    def __init__(self) -> None:
        self._waiting = dict(MOMENTS)
        self.killed: dict[str, int] = {}

    def report(self, stage: str, count: int) -> None:
        for moment in [key for key in self._waiting if key[0] == stage and count >= key[1]]:
            for name in self._waiting.pop(moment):
                self._kill(name)

    def _kill(self, name: str) -> None:
        pid = pid_of(name)
        assert pid is not None, f"{name} was not running when its moment came"
        os.kill(pid, signal.SIGKILL)
        self.killed[name] = pid


@pytest.fixture(scope="package")
def survived(running_fleet: DevelopmentFleet) -> tuple[DemoResult, Killer]:
    """A run during which each of them died once."""
    killer = Killer()
    return Demo(running_fleet, killer.report, Pace(stall_seconds=150)).run(PAYMENTS), killer


def pids() -> dict[str, int | None]:
    """Every server and process that the supervisor keeps, by its name."""
    return {state.name: state.pid for state in supervision.states(StateFolder.open(STATE_DIR))}


def pid_of(name: str) -> int | None:
    """The process that the supervisor keeps under that name now."""
    return pids().get(name)
