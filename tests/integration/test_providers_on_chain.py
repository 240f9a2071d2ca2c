"""Whatever a provider says, the chain decides: a hint is credited with what was mined, or with nothing (L20)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from eth_account import Account

from custody.providers.amn_scanner.intents import issue_intent
from custody.providers.request_network.listed_payments import journal_entry
from custody.providers.verification import run_once
from custody.store.attention import UNSEEN_PATIENCE, needs_attention
from custody.store.engine import transaction
from tests.integration.chain_fixtures import Expected, WatchingFleet
from tests.provider_deliveries import confirmed, invoice, receive
from tests.request_network_api import listed_payment
from tests.webhooks import body_of

AT = datetime(2026, 3, 1, tzinfo=UTC)
Tell = Callable[[WatchingFleet, Expected, str], None]


def on_rail(fleet: WatchingFleet, payment: Expected, provider: str, name: str = "an order") -> None:
    fleet.market.execute(
        "UPDATE public.payments SET provider = CAST(:provider AS public.payment_provider), "
        "provider_payment_id = :name WHERE id = :id",
        provider=provider,
        name=name,
        id=payment.payment,
    )


def tell_as_scanner(fleet: WatchingFleet, payment: Expected, transaction_hash: str) -> None:
    on_rail(fleet, payment, "amn.scanner")
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        intent = issue_intent(connection, payment.payment)
    receive(fleet.market, "amn.scanner", body_of(confirmed(intent, txHash=transaction_hash)))


def tell_as_shkeeper(fleet: WatchingFleet, payment: Expected, transaction_hash: str) -> None:
    on_rail(fleet, payment, "shkeeper", "order-147")
    moved: dict[str, Any] = {"txid": transaction_hash, "trigger": True, "amount_crypto": "1000000"}
    body = invoice("order-147", crypto=None, status="OVERPAID", balance_crypto="1000000", transactions=[moved])
    receive(fleet.market, "shkeeper", body_of(body))


def tell_as_api(fleet: WatchingFleet, payment: Expected, transaction_hash: str) -> None:
    listed = listed_payment(
        1, None, "0x" + payment.reference.hex(), transaction_hash, AT, amount="1000000", type="conversion"
    )
    entry = journal_entry(listed)
    assert json.loads(entry.body) == listed
    receive(fleet.market, entry.provider, entry.body)


EVERY = pytest.mark.parametrize("tell", [tell_as_scanner, tell_as_shkeeper, tell_as_api])


def hear(fleet: WatchingFleet) -> None:
    run_once(fleet.database.engine("fleet_webhooks"), 100)
    fleet.watch()


@EVERY
def test_what_was_mined_is_credited_whatever_the_provider_says(fleet: WatchingFleet, tell: Tell) -> None:
    payment = fleet.payment()
    tell(fleet, payment, fleet.pay(payment, 40))
    hear(fleet)
    assert fleet.entries(payment.payment) == [("payment_detected", "seen", "destination", "detected", Decimal(40))]
    assert fleet.books_equal_chain()


@EVERY
def test_a_transaction_that_pays_somebody_else_credits_nothing_and_is_shown(fleet: WatchingFleet, tell: Tell) -> None:
    payment = fleet.payment()
    stranger = Expected(payment.payment, Account.create().address, payment.reference, payment.amount)
    elsewhere = fleet.pay(stranger)
    tell(fleet, payment, elsewhere)
    hear(fleet)
    assert fleet.entries(payment.payment) == []
    assert fleet.market.state(payment.payment) == ("pending", None)
    assert fleet.look(elsewhere).state == "nothing_of_ours"
    fleet.market.execute(
        "UPDATE fleet.webhook_deliveries SET received_at = now() - CAST(:by AS interval)", by=UNSEEN_PATIENCE
    )
    with fleet.database.engine("fleet_operator").connect() as connection:
        (item,) = needs_attention(connection)
    assert str(payment.payment) in item.what
    assert elsewhere in item.what
    assert "no transfer of an accepted token to an issued address" in item.reason
