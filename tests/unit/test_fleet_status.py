"""A process is well when its door answers, or when it has done something lately in this life of it."""

import os
from pathlib import Path
from time import time

import pytest

from workers import fleet_status as module
from workers.embedded.services import ServiceStatus
from workers.fleet_status import fleet_status
from workers.health import SILENT_SECONDS, sign


def health_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, uptime: int, signed: int | None, supervised: str = "ok"
) -> str:
    """What is said of the relay that runs for ``uptime`` seconds and last did something ``signed`` seconds ago."""
    path = sign("relay", folder)
    if signed is not None:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (time() - signed, time() - signed))
    row = ServiceStatus("relay", "", 1, supervised, uptime)

    def supervisors_word(*_: object) -> list[ServiceStatus]:
        return [row]

    monkeypatch.setattr(module.services, "status", supervisors_word)
    (found,) = fleet_status(folder)
    return found.health


def test_doing_something_is_being_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health_of(tmp_path, monkeypatch, uptime=1000, signed=SILENT_SECONDS - 10) == "ok"


@pytest.mark.parametrize("signed", [None, 50])
def test_a_process_that_did_nothing_in_this_life_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: int | None
) -> None:
    assert health_of(tmp_path, monkeypatch, uptime=5, signed=signed) == "starting: it has done nothing yet"


@pytest.mark.parametrize("signed", [None, SILENT_SECONDS + 10])
def test_a_silent_process_is_not_well_though_its_supervisor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: int | None
) -> None:
    said = health_of(tmp_path, monkeypatch, uptime=500, signed=signed)
    assert said == f"has done nothing for {500 if signed is None else signed} s; read its log"


def test_what_the_supervisor_says_of_a_dead_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health_of(tmp_path, monkeypatch, uptime=0, signed=1, supervised="backoff") == "backoff"
