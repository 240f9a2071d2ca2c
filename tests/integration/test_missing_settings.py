"""Every process whose settings are missing or wrong ends at once, names each of them, and shows no traceback."""

from pathlib import Path

import pytest

from tests.counts import sampled
from tests.fleet_process import FleetProcess
from workers.processes import PROCESSES, Process

# The workers begin alike; one of them is enough.
BEGINNINGS = [each for each in PROCESSES if not each.name.startswith("worker-") or each.name == "worker-webhooks"]
WRONG = {"BROKER_URL": "kafka://:hush@h", "DATABASE_URL": "mysql://u:hush@h/d"}


@pytest.mark.parametrize("process", sampled(sampled(BEGINNINGS)), ids=lambda process: process.name)
def test_what_is_missing_or_wrong_is_named(process: Process, tmp_path: Path) -> None:
    home = {"FLEET_STATE_DIR": str(tmp_path)}
    bare = FleetProcess(list(process.arguments), home, tmp_path / "bare.log")
    misled = FleetProcess(list(process.arguments), home | WRONG, tmp_path / "misled.log")
    try:
        assert bare.process.wait(timeout=90) != 0
        assert misled.process.wait(timeout=90) != 0
    finally:
        bare.kill()
        misled.kill()
    said = bare.log.read_text()
    assert [name for name in process.settings() if f"{name.upper()} is not set: expected " in said], said
    assert "Traceback" not in said
    said = misled.log.read_text()
    assert "BROKER_URL is wrong: expected redis://" in said
    assert "DATABASE_URL is wrong: expected postgresql://" in said
    assert "hush" not in said
    assert "Traceback" not in said
