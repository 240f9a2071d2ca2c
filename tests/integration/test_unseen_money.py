"""What a provider says of money that is not on chain credits nothing, and after ten minutes a person sees it."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from custody.chain.looks import Conclusion, conclude, due_looks, try_later
from custody.providers.verification import run_once
from custody.settings.environment import settings
from custody.store.attention import UNSEEN_PATIENCE, Attention, needs_attention
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from tests.provider_deliveries import HASH, confirmed, receive, scanner_payment
from tests.webhooks import body_of, paying_event
from workers.cli import attention

Run = Callable[..., Any]


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer()
    attention.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "500")
    settings.cache_clear()
    yield lambda *words: CliRunner().invoke(app, [str(word) for word in words])
    settings.cache_clear()


def verify(market: Marketplace) -> None:
    run_once(market.database.engine("fleet_webhooks"), 100)


def age(market: Marketplace, by: timedelta = UNSEEN_PATIENCE) -> None:
    """Let every delivery have come that long ago."""
    market.execute("UPDATE fleet.webhook_deliveries SET received_at = now() - CAST(:by AS interval)", by=by)


def shown(market: Marketplace) -> list[Attention]:
    with market.database.engine("fleet_operator").connect() as connection:
        return needs_attention(connection)


def announced(market: Marketplace, *, deliveries: int = 1) -> tuple[UUID, list[UUID]]:
    """A payment whose scanner says that it is paid, and the deliveries that say so."""
    payment, intent = scanner_payment(market)
    bodies = [body_of(confirmed(intent, n=n)) for n in range(deliveries)]
    return payment, [receive(market, "amn.scanner", body) for body in bodies]


def answer(market: Marketplace, state: str, why: str) -> None:
    """Let the watcher answer every look that is due."""
    with transaction(market.database.engine("fleet_watcher")) as connection:
        for look in due_looks(connection, CHAIN_ID, 10):
            if state == "nothing_of_ours":
                conclude(connection, [Conclusion(look, "nothing_of_ours", why)])
            else:
                try_later(connection, look, why)


def test_it_credits_nothing_and_is_shown_once_ten_minutes_after_it_came(market: Marketplace, fleet: Run) -> None:
    payment, (delivery, *_) = announced(market, deliveries=3)
    verify(market)
    answer(market, "nothing_of_ours", "no transfer of an accepted token to an issued address")
    age(market, UNSEEN_PATIENCE - timedelta(seconds=30))
    assert shown(market) == []
    age(market)
    (item,) = shown(market)
    assert str(payment) in item.what
    assert HASH in item.what
    assert "no transfer of an accepted token to an issued address" in item.reason
    assert f"fleet look {CHAIN_ID}" in item.unblocks
    assert market.state(payment) == ("pending", None)
    assert market.entries(payment) == 0
    seen = fleet("stuck")
    assert seen.exit_code == 1
    assert str(delivery) in seen.output


def test_a_transaction_that_no_block_holds_is_shown_with_what_the_watcher_says(market: Marketplace) -> None:
    announced(market)
    verify(market)
    age(market)
    (item,) = shown(market)
    assert "no look at it was answered" in item.reason
    answer(market, "later", "no block holds the transaction")
    (item,) = shown(market)
    assert "no block holds the transaction" in item.reason


def test_money_that_is_on_chain_is_not_shown_until_a_reorganisation_takes_it(market: Marketplace) -> None:
    """L1: a fact can die; then the provider's word stands alone again."""
    payment, _ = announced(market)
    verify(market)
    fact = market.fact(payment)
    market.execute("UPDATE fleet.chain_facts SET transaction_hash = :hash WHERE id = :id", hash=HASH, id=fact)
    age(market)
    assert shown(market) == []
    market.kill_fact(fact)
    assert len(shown(market)) == 1


def test_a_transaction_that_pays_another_payment_is_shown(market: Marketplace) -> None:
    payment, _ = announced(market)
    verify(market)
    fact = market.fact(market.payment())
    market.execute("UPDATE fleet.chain_facts SET transaction_hash = :hash WHERE id = :id", hash=HASH, id=fact)
    market.execute("UPDATE fleet.chain_looks SET state = 'seen', outcome = '1 transfers to issued addresses'")
    age(market)
    (item,) = shown(market)
    assert str(payment) in item.what


def test_each_delivery_that_names_no_transaction_of_ours_is_shown_with_its_reason(market: Marketplace) -> None:
    payment, intent = scanner_payment(market)
    paid, paid_intent = scanner_payment(market)
    market.fact(paid)
    expected = {
        receive(market, "request.network", body_of(paying_event("01" + "00" * 32, None, HASH))): "unknown_request",
        receive(market, "amn.scanner", body_of(confirmed(intent, txHash=None))): "no_transaction",
        receive(market, "amn.scanner", body_of(confirmed(intent, chainId=1))): "mismatched",
        receive(market, "shkeeper", b"no json"): "malformed",
    }
    receive(market, "amn.scanner", body_of(confirmed(paid_intent, txHash=None)))  # its money is on chain
    receive(market, "amn.scanner", body_of(confirmed(intent, status="expired")))  # says nothing of money
    verify(market)
    unread = receive(market, "shkeeper", b"{}")
    assert shown(market) == []
    age(market)
    found = shown(market)
    by_delivery = {one: item for item in found for one in (*expected, unread) if str(one) in item.what}
    assert len(found) == len(by_delivery) == len(expected) + 1
    for delivery, state in expected.items():
        item = by_delivery[delivery]
        assert f"is {state}" in item.what
        assert item.reason
        assert f"fleet delivery {delivery} --close REASON" in item.unblocks
    assert f"of payment {payment}" in "".join(item.what for item in found)
    assert "webhooks worker runs" in by_delivery[unread].unblocks


def test_a_test_delivery_is_never_shown(market: Marketplace) -> None:
    receive(market, "request.network", body_of(paying_event("01" + "00" * 32, None, HASH)))
    market.execute("UPDATE fleet.webhook_deliveries SET is_test = true")
    age(market)
    assert shown(market) == []


def test_a_person_has_a_delivery_read_again_once_its_cause_is_gone(market: Marketplace, fleet: Run) -> None:
    request_id = "01" + "cd" * 32
    delivery = receive(market, "request.network", body_of(paying_event(request_id, None, HASH)))
    verify(market)
    payment = market.payment(request_id=request_id)
    assert fleet("delivery", delivery, "--again").exit_code == 0
    assert market.execute("SELECT count(*) AS n FROM fleet.outbox WHERE queue = 'webhooks'")[0].n == 1
    verify(market)
    (row,) = market.execute("SELECT state, payment_id FROM fleet.webhook_deliveries")
    assert (row.state, row.payment_id) == ("linked", payment)


def test_a_person_ends_what_was_said_three_times_with_one_reason(market: Marketplace, fleet: Run) -> None:
    _, deliveries = announced(market, deliveries=3)
    verify(market)
    age(market)
    for words in ((), ("--again", "--close", "both"), ("--close", "x" * 501)):
        assert fleet("delivery", deliveries[0], *words).exit_code == 1
    assert fleet("delivery", UUID(int=1), "--again").exit_code == 1
    answered = fleet("delivery", deliveries[1], "--close", "the scanner was set back")
    assert answered.output == "3 ended\n"
    assert shown(market) == []
    rows = market.execute("SELECT state, reason, body FROM fleet.webhook_deliveries")
    assert {row.state for row in rows} == {"kept"}
    assert all("the scanner was set back" in row.reason and "asked for a look" in row.reason for row in rows)


def test_a_person_s_answer_resolves_the_dead_work_of_the_delivery(market: Marketplace, fleet: Run) -> None:
    delivery = receive(market, "stripe", b"{}")
    run_once(market.database.engine("fleet_webhooks"), 100, attempts_limit=1)
    assert len(shown(market)) == 1
    assert fleet("delivery", delivery, "--close", "never was a provider of ours").exit_code == 0
    assert shown(market) == []


def test_an_api_that_is_not_read_for_ten_minutes_is_shown(market: Marketplace) -> None:
    market.execute(
        "INSERT INTO fleet.reconciliation_cursors (source, reconciled_to, failing_since, last_error) "
        "VALUES ('request.network', now(), now() - CAST(:by AS interval), 'the API refused the key')",
        by=UNSEEN_PATIENCE,
    )
    (item,) = shown(market)
    assert (item.what, item.reason) == ("the payments of request.network are not read", "the API refused the key")
