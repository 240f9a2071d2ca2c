"""``fleet alarms``: what is open, the newest first, and saying that somebody knows."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import typer
from typer.testing import CliRunner

from custody.settings.environment import settings
from tests.alarm_receiver import give_up
from tests.conftest import Database
from workers.cli import alarms

Run = Callable[..., Any]


@pytest.fixture
def fleet(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer()
    alarms.register(app)
    monkeypatch.setenv("DATABASE_URL", database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "300")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["alarms", *arguments])
    settings.cache_clear()


def test_open_alarms_are_listed_until_somebody_knows(database: Database, fleet: Run) -> None:
    quiet = fleet()
    assert (quiet.exit_code, quiet.output.strip()) == (0, "no alarm is open")
    for number in (1, 2):
        give_up(database, number, "[red]nonce_taken\x1b[31m")
    answer = fleet()
    assert answer.exit_code == 1
    assert answer.output.index("chain_transaction 2") < answer.output.index("chain_transaction 1")
    assert "[red]nonce_taken" in answer.output
    assert "\x1b[31m" not in answer.output
    found = json.loads(fleet("--json").output)
    assert found["open"] == 2
    newest, oldest = found["alarms"]
    assert (newest["subject"]["id"], newest["attempts"], newest["last_error"]) == ("2", 0, None)
    done = fleet("acknowledge", oldest["id"], "--by", "mina")
    assert (done.exit_code, done.output.strip()) == (0, "acknowledged")
    assert fleet("acknowledge", oldest["id"], "--by", "omid").output.strip() == "it was acknowledged already"
    assert [each["id"] for each in json.loads(fleet("--json").output)["alarms"]] == [newest["id"]]


def test_an_alarm_that_is_none_and_a_label_that_is_none_are_refused(database: Database, fleet: Run) -> None:
    unknown = str(uuid4())
    refused = fleet("acknowledge", unknown, "--by", "mina")
    assert refused.exit_code == 2
    assert refused.stderr.strip() == f"there is no alarm {unknown}: fleet alarms lists those that are open"
    give_up(database, 1)
    [alarm] = json.loads(fleet("--json").output)["alarms"]
    assert "by: expected 1 to 100 characters" in fleet("acknowledge", alarm["id"], "--by", "").stderr
    assert fleet("acknowledge", "not-an-id", "--by", "mina").exit_code == 2
    assert json.loads(fleet("--json").output)["open"] == 1
