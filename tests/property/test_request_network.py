"""Whatever a stranger sends: nothing raises but what says that it is malformed."""

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from custody.providers.request_network.delivery import kept_headers, read_delivery
from custody.providers.request_network.events import CORE_EVENTS, Event, MalformedEvent, PayingEvent, parse_event
from custody.providers.request_network.signature import is_authentic, sign

SECRETS = ["5e" * 32, "01" * 32]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "requestId",
        "requestID",
        "paymentReference",
        "txHash",
        "network",
        "amount",
        "fees",
        "timestamp",
        "unread",
        "__unread__",
        "event",
        "isCryptoToFiat",
        "requestIds",
        "rawPayload",
        "model_fields",
        "self",
    ]
)
NAMES = st.sampled_from(sorted(CORE_EVENTS)) | ANY_TEXT


def read(body: bytes) -> Event | str:
    """The event, or what is said against the body."""
    try:
        return parse_event(body)
    except MalformedEvent as error:
        return str(error)


@given(st.binary(max_size=200), st.text() | st.binary() | st.none())
def test_no_header_raises_or_passes(body: bytes, header: str | bytes | None) -> None:
    assert not is_authentic(body, header, SECRETS)


@given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 63))
def test_one_changed_digit_or_bit_is_refused(body: bytes, bit: int, place: int) -> None:
    signature = sign(body, SECRETS[1])
    assert is_authentic(body, signature, SECRETS)
    digit = "0" if signature[place] != "0" else "1"
    assert not is_authentic(body, signature[:place] + digit + signature[place + 1 :], SECRETS)
    if body:
        changed = bytearray(body)
        changed[bit % len(body)] ^= 1 << (bit % 8)
        assert not is_authentic(bytes(changed), signature, SECRETS)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_event_or_malformed(body: bytes) -> None:
    event = read(body)
    assert isinstance(event, Event) or "expected" in event


@given(NAMES, st.dictionaries(FIELDS | ANY_TEXT, VALUES, max_size=8))
def test_arbitrary_fields_are_an_event_or_malformed(name: str, fields: dict[str, object]) -> None:
    event = read(json.dumps({**fields, "event": name}).encode())
    if not isinstance(event, Event):
        assert event.encode()  # fit for a log and a database
        return
    assert event.event == name
    for text in (event.request_id, event.payment_reference, event.event):
        assert text is None or (text.isascii() and text.isprintable())
    if isinstance(event, PayingEvent):
        assert event.tx_hash is None or len(event.tx_hash) == 66
        assert event.amount is None or isinstance(event.amount, Decimal)


@given(st.lists(st.tuples(st.binary(max_size=100), st.binary(max_size=700)), max_size=60), st.binary(max_size=50))
def test_arbitrary_headers_can_be_stored(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    delivery = read_delivery(headers, body)
    assert delivery.key.isascii()
    assert "\\u0000" not in delivery.headers
    assert json.loads(delivery.headers) == kept_headers(headers)
