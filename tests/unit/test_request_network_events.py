"""The events of Request Network's webhooks: every name, open schema, and what is malformed."""

import json
from decimal import Decimal
from typing import Any

import pytest

from custody.providers.request_network.events import (
    CORE_EVENTS,
    ComplianceUpdated,
    MalformedEvent,
    OrchestratorEvent,
    PayingEvent,
    PaymentDetailUpdated,
    PaymentFailed,
    PaymentProcessing,
    PaymentRefunded,
    RequestRecurring,
    SecurePaymentAccessRejected,
    SecurePaymentUserEvent,
    UnknownEvent,
    base_event,
    parse_event,
)
from custody.providers.request_network.networks import chain_id
from tests.webhooks import body_of, paying_event

REQUEST_ID = "01" + "ab" * 32
REFERENCE = "0x" + "cd" * 8
HASH = "0x" + "ef" * 32


def paying(**fields: Any) -> PayingEvent:
    event = parse_event(body_of(paying_event(REQUEST_ID, REFERENCE, HASH) | fields))
    assert isinstance(event, PayingEvent)
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("payment.confirmed", PayingEvent),
        ("payment.partial", PayingEvent),
        ("payment.confirmed.client_id", PayingEvent),
        ("payment.partial.client_id", PayingEvent),
        ("payment.confirmed.checkout", PayingEvent),
        ("payment.partial.checkout", PayingEvent),
        ("payment.failed", PaymentFailed),
        ("payment.refunded", PaymentRefunded),
        ("payment.processing", PaymentProcessing),
        ("request.recurring", RequestRecurring),
        ("payment_detail.updated", PaymentDetailUpdated),
        ("compliance.updated", ComplianceUpdated),
        ("secure_payment.user_event", SecurePaymentUserEvent),
        ("secure_payment.access_rejected", SecurePaymentAccessRejected),
        ("client_id.linked", OrchestratorEvent),
        ("kyt.screening.completed", OrchestratorEvent),
        ("payment.complete", UnknownEvent),
        ("checkout", UnknownEvent),
        (".checkout", UnknownEvent),
        ("Payment.Confirmed", UnknownEvent),
    ],
)
def test_each_event_has_its_type(name: str, kind: type) -> None:
    event = parse_event(body_of({"event": name, "requestId": REQUEST_ID}))
    assert type(event) is kind
    assert event.event == name
    assert event.request_id == REQUEST_ID
    assert (base_event(name) in CORE_EVENTS) == (kind is not UnknownEvent)


def test_flavours_fold_onto_the_core_event() -> None:
    assert base_event("payment.confirmed.client_id") == "payment.confirmed"
    assert base_event("payment.partial.checkout") == "payment.partial"
    assert base_event("client_id.linked") == "client_id.linked"
    assert base_event("new.thing.checkout") == "new.thing.checkout"


def test_the_official_sample_is_read_whole() -> None:
    event = paying(clientId="shop", somethingNew={"kept": [1]})
    assert (event.request_id, event.payment_reference, event.tx_hash) == (REQUEST_ID, REFERENCE, HASH)
    assert event.amount == Decimal("100.0")
    assert event.fees[0].amount == Decimal("0.02")
    assert event.client_id == "shop"
    assert event.chain_id == 31337
    assert event.unread == ()
    assert event.model_extra == {"somethingNew": {"kept": [1]}}


def test_identifiers_are_normalised() -> None:
    event = paying(
        requestId=REQUEST_ID.upper(),
        requestID=REQUEST_ID.upper(),
        paymentReference="CD" * 8,
        txHash="EF" * 32,
    )
    assert (event.request_id, event.payment_reference, event.tx_hash) == (REQUEST_ID, REFERENCE, HASH)


def test_requestID_alone_is_the_request_id() -> None:  # noqa: N802 - the field's own spelling
    event = parse_event(body_of({"event": "payment.confirmed", "requestID": REQUEST_ID}))
    assert event.request_id == REQUEST_ID


@pytest.mark.parametrize("written", ["0.1", "100.0", "12345678901234567890.123456789012345678", "0"])
def test_amounts_keep_every_digit_as_text_or_number(written: str) -> None:
    assert paying(amount=written).amount == Decimal(written)
    body = body_of(paying_event(REQUEST_ID, REFERENCE, HASH, amount="AMOUNT"))
    event = parse_event(body.replace(b'"AMOUNT"', written.encode()))
    assert isinstance(event, PayingEvent)
    assert str(event.amount) == written


@pytest.mark.parametrize("wrong", ["1e5", "-1", "NaN", "1,000.0", "", " 1", "\u0661", True, [], {}, "9" * 61])
def test_an_amount_that_is_none_is_left_out_and_named(wrong: object) -> None:
    event = paying(amount=wrong)
    assert event.amount is None
    assert event.unread == ("amount",)
    assert event.tx_hash == HASH


def test_an_empty_or_missing_transaction_is_none() -> None:
    assert paying(txHash="").tx_hash is None
    assert paying(txHash=None).tx_hash is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"txHash": "0x12"}, "txHash: .*0x and 64 hex digits"),
        ({"txHash": 5}, "txHash"),
        ({"paymentReference": "0x" + "cd" * 9}, "paymentReference: .*0x and 16 hex digits"),
        ({"requestId": "a\u0000b", "requestID": "a\u0000b"}, "requestId: .*printable"),
        ({"requestId": 7, "requestID": 7}, "requestId"),
        ({"requestID": "01" + "00" * 32}, "requestId and requestID differ"),
        ({"event": 5}, "event: expected"),
        ({"event": "a b"}, "event: expected"),
        ({"event": ""}, "event: expected"),
    ],
)
def test_a_deciding_field_that_is_wrong_names_itself(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedEvent, match=message):
        paying(**fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"payment.confirmed"',
        b"{",
        b"{}",
        b'{"event": NaN}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"event": "payment.confirmed", "\\ud800": 1}',
        b'{"event": ' + b"9" * 50_000 + b"}",
        b'{"event": 1e999999999999999999999}',
    ],
)
def test_a_body_that_is_no_event_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent, match="expected"):
        parse_event(body)


def test_a_wrong_field_of_an_event_that_moves_nothing_is_only_left_out() -> None:
    event = parse_event(body_of({"event": "compliance.updated", "isCompliant": "perhaps", "requestId": 4}))
    assert isinstance(event, ComplianceUpdated)
    assert event.is_compliant is None
    assert event.unread == ("isCompliant", "requestId")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("ethereum", 1),
        ("mainnet", 1),
        ("matic", 137),
        ("polygon", 137),
        ("arbitrum-one", 42161),
        ("base", 8453),
        ("bsc", 56),
        ("optimism", 10),
        ("sepolia", 11155111),
        ("private", 31337),
        ("anvil", 31337),
        ("Ethereum", 1),
        ("atlantis", None),
    ],
)
def test_network_names_are_mapped_to_chain_ids(network: str, expected: int | None) -> None:
    assert chain_id(network) == expected
    assert json.loads(paying(network=network).model_dump_json())["network"] == network
    assert paying(network=network).chain_id == expected
