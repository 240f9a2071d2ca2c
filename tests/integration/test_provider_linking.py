"""Deliveries of the scanner and of SHKeeper on a real database: linked, looked at, and believed in nothing (L20)."""

from typing import Any
from uuid import UUID

import pytest

from custody.providers.verification import run_once
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from tests.provider_deliveries import (
    HASH,
    confirmed,
    invoice,
    receive,
    scanner_payment,
    shkeeper_payment,
)
from tests.webhooks import body_of, paying_event


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def verify(market: Marketplace) -> int:
    return run_once(market.database.engine("fleet_webhooks"), 100)


def row_of(market: Marketplace, delivery: UUID) -> Any:
    (row,) = market.execute("SELECT * FROM fleet.webhook_deliveries WHERE id = :id", id=delivery)
    return row


def states(market: Marketplace, expected: dict[UUID, tuple[str, UUID | None]]) -> None:
    assert verify(market) == len(expected)
    for delivery, (state, payment) in expected.items():
        row = row_of(market, delivery)
        assert (row.state, row.payment_id) == (state, payment), row.reason
        assert row.reason


def looks(market: Marketplace) -> list[Any]:
    return market.execute("SELECT * FROM fleet.chain_looks ORDER BY transaction_hash")


def test_a_confirmed_intent_is_linked_asks_for_one_look_and_posts_nothing(market: Marketplace) -> None:
    """L20: whatever the scanner says, verification posts nothing and changes no payment."""
    payment, intent = scanner_payment(market)
    deliveries = [receive(market, "amn.scanner", body_of(confirmed(intent, n=n))) for n in range(3)]
    states(market, dict.fromkeys(deliveries, ("linked", payment)))
    (look,) = looks(market)
    assert (look.chain_id, look.transaction_hash, look.payment_id) == (CHAIN_ID, HASH, payment)
    assert {row_of(market, delivery).look_id for delivery in deliveries} == {look.id}
    assert market.state(payment) == ("pending", None)
    assert market.entries(payment) == 0


def test_what_contradicts_the_payment_s_route_is_mismatched_and_not_looked_at(market: Marketplace) -> None:
    payment, intent = scanner_payment(market)
    wrong: tuple[dict[str, Any], ...] = (
        {"chainId": 56},
        {"chainId": "56"},
        {"token": "0x" + "bb" * 20},
        {"token": "native"},
        {"amount": str(intent.amount_units - 1)},
        {"amount": str(intent.amount_units + 1)},
        {"amount": str(2**256 - 1)},
        {"paymentReference": "0x" + "00" * 8},
        {"event": "balance_changed", "status": None, "chainId": 1},
        {"event": "balance_changed", "address": "0x" + "cc" * 20},
    )
    deliveries = [receive(market, "amn.scanner", body_of(confirmed(intent, **fields))) for fields in wrong]
    states(market, dict.fromkeys(deliveries, ("mismatched", payment)))
    for delivery, fields in zip(deliveries, wrong, strict=True):
        assert any(name in row_of(market, delivery).reason for name in fields)
    assert looks(market) == []


def test_each_delivery_of_the_scanner_ends_in_its_own_state(market: Marketplace) -> None:
    payment, intent = scanner_payment(market)

    def send(body: bytes) -> UUID:
        return receive(market, "amn.scanner", body)

    states(
        market,
        {
            send(body_of(confirmed(intent, txHash=None))): ("no_transaction", payment),
            send(body_of({"intentId": intent.intent_id, "event": "balance_changed", "delta": "5"})): (
                "no_transaction",
                payment,
            ),
            send(body_of(confirmed(intent, status="expired"))): ("kept", payment),
            send(body_of(confirmed(intent, status="teleported"))): ("unknown_event", None),
            send(body_of(confirmed(intent, intentId="nobody-s"))): ("unknown_request", None),
            send(b"no json"): ("malformed", None),
            send(body_of(confirmed(intent, txHash="0x12"))): ("malformed", None),
            send(body_of(confirmed(intent, amount="1.5"))): ("malformed", None),
            send(body_of(confirmed(intent, amount=1e3))): ("malformed", None),
            send(body_of(confirmed(intent, amount=str(2**256)))): ("malformed", None),
            send(body_of(confirmed(intent, status=None))): ("malformed", None),
        },
    )
    assert looks(market) == []


def test_a_changed_balance_of_part_of_the_amount_is_looked_at(market: Marketplace) -> None:
    payment, intent = scanner_payment(market)
    body = body_of(
        {
            "event": "balance_changed",
            "watchId": intent.intent_id,
            "chainId": intent.chain_id,
            "address": intent.destination.lower(),
            "baseline": "0",
            "balance": "5",
            "delta": "5",
            "txHash": HASH,
        }
    )
    states(market, {receive(market, "amn.scanner", body): ("linked", payment)})
    assert len(looks(market)) == 1


def test_a_callback_of_shkeeper_asks_for_a_look_at_the_transaction_that_triggered_it(market: Marketplace) -> None:
    payment, name = shkeeper_payment(market)
    (address,) = market.execute(
        "SELECT d.address FROM public.derived_destinations d JOIN fleet.payment_routes r ON r.destination_id = d.id "
        "WHERE r.payment_id = :id",
        id=payment,
    )
    bodies = [
        invoice(name, addr=address.address, status=status, paid=status != "PARTIAL")
        for status in ("PARTIAL", "PAID", "OVERPAID")
    ]
    deliveries = [receive(market, "shkeeper", body_of(body)) for body in bodies]
    states(market, dict.fromkeys(deliveries, ("linked", payment)))
    (look,) = looks(market)
    assert (look.chain_id, look.transaction_hash, look.payment_id) == (CHAIN_ID, HASH, payment)
    assert market.state(payment) == ("pending", None)
    assert market.entries(payment) == 0


def test_a_payment_of_the_past_without_a_route_is_looked_at_on_its_own_chain(market: Marketplace) -> None:
    payment, name = shkeeper_payment(market, routed=False)
    chainless, nameless = shkeeper_payment(market, routed=False)
    market.execute("UPDATE public.payments SET chain_id = NULL WHERE id = :id", id=chainless)
    states(
        market,
        {
            receive(market, "shkeeper", body_of(invoice(name))): ("linked", payment),
            receive(market, "shkeeper", body_of(invoice(nameless))): ("mismatched", chainless),
        },
    )
    assert [look.chain_id for look in looks(market)] == [CHAIN_ID]


def test_each_callback_of_shkeeper_ends_in_its_own_state(market: Marketplace) -> None:
    payment, name = shkeeper_payment(market)
    twin, _ = shkeeper_payment(market)
    market.execute("UPDATE public.payments SET provider_payment_id = 'twice' WHERE id = :id", id=twin)
    third, _ = shkeeper_payment(market)
    market.execute("UPDATE public.payments SET provider_payment_id = 'twice' WHERE id = :id", id=third)
    of_another_rail = market.payment()
    market.execute("UPDATE public.payments SET provider_payment_id = 'elsewhere' WHERE id = :id", id=of_another_rail)
    one: dict[str, Any] = invoice(name)["transactions"][1] | {"trigger": False}

    def send(body: dict[str, Any] | bytes) -> UUID:
        return receive(market, "shkeeper", body if isinstance(body, bytes) else body_of(body))

    states(
        market,
        {
            send(invoice(name, crypto="BNB-USDC", transactions=[one | {"crypto": "BNB-USDC"}])): (
                "mismatched",
                payment,
            ),
            send(invoice(name, crypto="DEV-USDT", transactions=[one | {"crypto": "DEV-USDT"}])): (
                "mismatched",
                payment,
            ),
            send(invoice(name, addr="0x" + "cc" * 20)): ("mismatched", payment),
            send(invoice("twice")): ("mismatched", None),
            send(invoice("elsewhere")): ("unknown_request", None),
            send(invoice("nobody-s")): ("unknown_request", None),
            send(invoice(name, transactions=[])): ("no_transaction", payment),
            send(invoice(name, transactions=[one, one])): ("no_transaction", payment),
            send(invoice(name, status="EXPIRED")): ("kept", payment),
            send(invoice(name, status="SUCCESS")): ("unknown_event", None),
            send(invoice(name, transactions=[one | {"txid": "ZZ"}])): ("malformed", None),
            send(invoice(name) | {"external_id": "a\x00b"}): ("malformed", None),
            send(invoice(name) | {"external_id": None}): ("malformed", None),
            send(invoice(name, status=1)): ("malformed", None),
            send(b"\x00"): ("malformed", None),
        },
    )
    assert looks(market) == []


def test_an_unconfirmed_transaction_is_looked_at_too(market: Marketplace) -> None:
    payment, name = shkeeper_payment(market)
    body = {"status": "unconfirmed", "external_id": name, "crypto": "DEV-USDC", "txid": HASH[2:], "amount": "4"}
    states(market, {receive(market, "shkeeper", body_of(body)): ("linked", payment)})
    assert [look.transaction_hash for look in looks(market)] == [HASH]


def test_one_batch_takes_the_deliveries_of_every_provider(market: Marketplace) -> None:
    by_request = market.payment()
    (route,) = market.execute("SELECT * FROM fleet.payment_routes WHERE payment_id = :id", id=by_request)
    by_scanner, intent = scanner_payment(market)
    by_shkeeper, name = shkeeper_payment(market)
    states(
        market,
        {
            receive(market, "shkeeper", body_of(invoice(name))): ("linked", by_shkeeper),
            receive(
                market,
                "request.network",
                body_of(paying_event(route.request_id, route.payment_reference, "0x" + "aa" * 32)),
            ): ("linked", by_request),
            receive(market, "amn.scanner", body_of(confirmed(intent, txHash="0x" + "bb" * 32))): (
                "linked",
                by_scanner,
            ),
        },
    )
    assert len(looks(market)) == 3


def test_a_delivery_of_a_provider_nobody_knows_is_dead_and_shown(market: Marketplace) -> None:
    delivery = receive(market, "stripe", b"{}")
    assert run_once(market.database.engine("fleet_webhooks"), 100, attempts_limit=1) == 1
    assert row_of(market, delivery).state == "dead"
    (dead,) = market.execute("SELECT reason FROM fleet.dead_work")
    assert "no provider is called stripe" in dead.reason
