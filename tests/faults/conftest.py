"""One running fleet for every test that needs the whole of it (L23)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.demo.fleet import DevelopmentFleet, start
from workers.embedded import services

STATE_DIR = Path(os.environ.get("FLEET_TEST_FLEET_STATE_DIR", ".fleet/test-fleet")).resolve()


@pytest.fixture(scope="session")
def running_fleet() -> Iterator[DevelopmentFleet]:
    """Servers and every process, under supervision, on a development chain of their own."""
    fleet = start(STATE_DIR)
    yield fleet
    services.down(STATE_DIR)
