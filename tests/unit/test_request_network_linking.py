"""What becomes of a delivery, given the payments that its event may mean."""

from typing import Any
from uuid import UUID

import pytest

from custody.providers.request_network.events import parse_event
from custody.providers.request_network.linking import Look, PaymentRoute, Routes, judge
from tests.webhooks import body_of, paying_event

HASH = "0x" + "ef" * 32
ONE = PaymentRoute(UUID(int=1), 31337, "01" + "aa" * 32, "0x" + "a1" * 8)
TWO = PaymentRoute(UUID(int=2), 8453, "01" + "bb" * 32, "0x" + "b2" * 8)
NAMELESS = PaymentRoute(UUID(int=3), 31337, None, "0x" + "c3" * 8)
ALL = Routes(
    {route.request_id: route for route in (ONE, TWO) if route.request_id},
    {route.payment_reference: route for route in (ONE, TWO, NAMELESS) if route.payment_reference},
)
UNKNOWN_ID = "01" + "dd" * 32
UNKNOWN_REFERENCE = "0x" + "d4" * 8


def state(request_id: str | None, reference: str | None, **fields: Any) -> tuple[str, UUID | None]:
    verdict = judge(parse_event(body_of(paying_event(request_id, reference, HASH) | fields)), ALL)
    assert verdict.reason
    return verdict.state, verdict.payment_id


def test_an_event_that_fits_asks_for_a_look_on_the_payments_own_chain() -> None:
    event = parse_event(body_of(paying_event(TWO.request_id, TWO.payment_reference, HASH, network="atlantis")))
    verdict = judge(event, ALL)
    assert verdict.look == Look(8453, HASH, TWO.payment_id)
    assert (verdict.state, verdict.payment_id, verdict.event) == (
        "linked",
        TWO.payment_id,
        "payment.confirmed",
    )


@pytest.mark.parametrize(
    ("request_id", "reference", "expected"),
    [
        (ONE.request_id, None, ("linked", ONE.payment_id)),
        (None, ONE.payment_reference, ("linked", ONE.payment_id)),
        (UNKNOWN_ID, NAMELESS.payment_reference, ("linked", NAMELESS.payment_id)),
        (ONE.request_id, TWO.payment_reference, ("mismatched", None)),
        (ONE.request_id, UNKNOWN_REFERENCE, ("mismatched", None)),
        (UNKNOWN_ID, ONE.payment_reference, ("mismatched", None)),
        (UNKNOWN_ID, UNKNOWN_REFERENCE, ("unknown_request", None)),
        (UNKNOWN_ID, None, ("unknown_request", None)),
        (None, None, ("malformed", None)),
    ],
)
def test_both_names_of_a_payment_must_agree(
    request_id: str | None, reference: str | None, expected: tuple[str, UUID | None]
) -> None:
    assert state(request_id, reference) == expected


def test_the_wrong_network_contradicts_and_an_unknown_one_does_not() -> None:
    assert state(ONE.request_id, None, network="base") == ("mismatched", ONE.payment_id)
    assert state(ONE.request_id, None, network="atlantis") == ("linked", ONE.payment_id)
    assert state(ONE.request_id, None, network=None) == ("linked", ONE.payment_id)


def test_amounts_and_currency_decide_nothing() -> None:
    for amount in ("0.000001", "1" + "0" * 30, "nonsense", -1):
        assert state(ONE.request_id, None, amount=amount, currency="EUR")[0] == "linked"


def test_no_transaction_is_a_state_of_its_own() -> None:
    assert state(ONE.request_id, None, txHash=None) == ("no_transaction", ONE.payment_id)
    assert state(UNKNOWN_ID, None, txHash=None) == ("unknown_request", None)


@pytest.mark.parametrize(
    "name",
    [
        "payment.failed",
        "payment.refunded",
        "payment.processing",
        "request.recurring",
        "payment_detail.updated",
        "compliance.updated",
        "secure_payment.user_event",
        "secure_payment.access_rejected",
        "client_id.linked",
        "kyt.screening.completed",
    ],
)
def test_events_that_move_nothing_are_kept_with_their_payment(name: str) -> None:
    assert state(ONE.request_id, None, event=name) == ("kept", ONE.payment_id)
    assert state(UNKNOWN_ID, None, event=name) == ("kept", None)


def test_an_unknown_event_is_kept_and_shown() -> None:
    assert state(ONE.request_id, None, event="payment.teleported")[0] == "unknown_event"
