"""``fleet stuck`` and ``fleet look``: what waits for a person is shown, and the watcher can be asked again."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from custody.settings.environment import settings
from custody.store.work import bury
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from workers.cli import attention

Run = Callable[..., Any]
HASH = "0x" + "ab" * 32


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer()
    attention.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def test_what_waits_for_a_person_is_shown_with_what_unblocks_it(market: Marketplace, fleet: Run) -> None:
    assert fleet("stuck").exit_code == 0
    market.payment()
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, paused_reason, paused_at) "
        "VALUES (31337, 1, '0x', now(), 'a deep reorganisation', now())"
    )
    market.execute(
        "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = 'transfer_reverts: no'"
    )
    with market.database.engine("fleet_sweeps").begin() as connection:
        bury(
            connection,
            queue="sweeps",
            subject_kind="chain_transaction",
            subject_id="one",
            reason="nonce_taken",
            unblocks="change the key",
            attempts=1,
        )
    answer = fleet("stuck")
    assert answer.exit_code == 1
    for expected in (
        "chain 31337 is paused",
        "a deep reorganisation",
        "is quarantined",
        "transfer_reverts",
        "nonce_taken",
    ):
        assert expected in answer.output
    assert "change the key" in answer.output


def test_a_look_that_was_given_up_is_asked_for_again(market: Marketplace, fleet: Run) -> None:
    market.execute(
        "INSERT INTO fleet.chain_looks (chain_id, transaction_hash, requested_by, state, attempts) "
        "VALUES (:c, :h, 'test', 'missing', 300)",
        c=CHAIN_ID,
        h=HASH,
    )
    assert fleet("look", str(CHAIN_ID), HASH.upper().replace("0X", "0x")).exit_code == 0
    [row] = market.execute("SELECT state, attempts FROM fleet.chain_looks")
    assert (row.state, row.attempts) == ("due", 0)
    assert fleet("look", str(CHAIN_ID), "0xnonsense").exit_code == 1
