"""One running fleet for every test that needs the whole of it (L23)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROCESS
from workers.demo.fleet import DevelopmentFleet, start
from workers.embedded import orphans, services, supervision
from workers.embedded.state_folder import StateFolder

STATE_DIR = Path(os.environ.get("FLEET_TEST_FLEET_STATE_DIR", ".fleet/test-fleet")).resolve() / PROCESS


@pytest.fixture(scope="session")
def running_fleet() -> Iterator[DevelopmentFleet]:
    """Servers and every process, under supervision, on a development chain of their own."""
    try:
        yield start(STATE_DIR)
    finally:
        services.down(STATE_DIR)
    assert orphans.living(StateFolder.open(STATE_DIR)) == []


def pid_of(name: str) -> int | None:
    """The process that the supervisor keeps under that name now."""
    states = supervision.states(StateFolder.open(STATE_DIR))
    return next((state.pid for state in states if state.name == name), None)
