"""``fleet intents issue``: the scanner is told what the route says, and the secret stands in one private file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from custody.providers.amn_scanner.intents import IntentRefused, issue_intent
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.provider_deliveries import scanner_payment
from workers.cli import intents

Run = Callable[..., Any]
URL = "https://fleet.example.org/webhooks/amn-scanner"


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer()
    intents.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    settings.cache_clear()
    yield lambda *words: CliRunner().invoke(app, ["intents", "issue", *map(str, words), "--callback-url", URL])
    settings.cache_clear()


def test_the_scanner_is_told_the_route_in_a_private_file(market: Marketplace, fleet: Run, tmp_path: Path) -> None:
    payment, first = scanner_payment(market)
    to = tmp_path / "intent.json"
    answer = fleet(payment, "--to", to)
    assert answer.exit_code == 0, answer.output
    assert to.stat().st_mode & 0o777 == 0o600
    told = json.loads(to.read_text())
    (row,) = market.execute("SELECT * FROM fleet.scanner_intents WHERE intent_id <> :first", first=first.intent_id)
    assert told == {
        "intentId": row.intent_id,
        "chainId": CHAIN_ID,
        "tokenAddress": TOKEN.lower(),
        "destination": first.destination,
        "amount": "100000000",
        "callbackUrl": URL,
        "callbackSecret": row.callback_secret,
    }
    assert row.payment_id == payment
    assert row.callback_secret not in answer.output
    assert first.callback_secret not in repr(first)
    assert row.callback_secret != first.callback_secret


def test_what_no_intent_is_issued_for_leaves_no_file(market: Marketplace, fleet: Run, tmp_path: Path) -> None:
    other_rail = market.payment()
    routeless, intent = scanner_payment(market)
    market.execute("DELETE FROM fleet.payment_routes WHERE payment_id = :id", id=routeless)
    for payment, expected in (
        (other_rail, "is paid by request.network: expected amn.scanner"),
        (routeless, "has no route"),
        ("nobody", "no payment is called nobody"),
    ):
        answer = fleet(payment, "--to", tmp_path / "intent.json")
        assert answer.exit_code == 1
        assert expected in answer.output
    assert list(tmp_path.iterdir()) == []
    assert [row.intent_id for row in market.execute("SELECT * FROM fleet.scanner_intents")] == [intent.intent_id]


def test_a_file_that_is_there_is_not_written_over(market: Marketplace, fleet: Run, tmp_path: Path) -> None:
    payment, _ = scanner_payment(market)
    to = tmp_path / "intent.json"
    to.write_text("mine")
    answer = fleet(payment, "--to", to)
    assert answer.exit_code == 1
    assert "expected the path of a new file" in answer.output
    assert to.read_text() == "mine"


def test_an_amount_that_the_token_cannot_hold_is_refused(market: Marketplace) -> None:
    """L10: more decimals than the token has are refused, never rounded."""
    payment, _ = scanner_payment(market)
    market.execute("UPDATE fleet.payment_routes SET expected = 1.0000001 WHERE payment_id = :id", id=payment)
    with (
        transaction(market.database.engine("fleet_operator")) as connection,
        pytest.raises(IntentRefused, match="decimals"),
    ):
        issue_intent(connection, payment)
