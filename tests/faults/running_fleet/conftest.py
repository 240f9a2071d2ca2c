"""One running fleet for every test that needs the whole of it (L23)."""

from collections.abc import Iterator

import pytest

from tests.state_folders import forget, state_folder
from workers.demo.fleet import DevelopmentFleet, start
from workers.embedded import orphans, services, supervision
from workers.embedded.state_folder import StateFolder

STATE_DIR = state_folder("test-fleet", "FLEET_TEST_FLEET_STATE_DIR")


@pytest.fixture(scope="session")
def running_fleet() -> Iterator[DevelopmentFleet]:
    """Servers and every process, under supervision, on a development chain of their own."""
    try:
        yield start(STATE_DIR)
    finally:
        services.down(STATE_DIR)
    assert orphans.living(StateFolder.open(STATE_DIR)) == []
    forget(STATE_DIR)


def pid_of(name: str) -> int | None:
    """The process that the supervisor keeps under that name now."""
    states = supervision.states(StateFolder.open(STATE_DIR))
    return next((state.pid for state in states if state.name == name), None)
