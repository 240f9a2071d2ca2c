"""Whatever a stranger sends to any provider's door: nothing raises, and only what was signed passes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from custody.providers.amn_scanner.events import subject_of
from custody.providers.events import MalformedEvent
from custody.providers.hmac_signature import sign
from custody.providers.interface import Door, Provider
from custody.providers.table import PROVIDERS
from tests.provider_deliveries import API_KEY, shkeeper_headers

SECRETS = (API_KEY, "5e" * 32)
PROVIDER = st.sampled_from([provider for provider in PROVIDERS if provider.door is not None])
SOURCE = st.sampled_from(PROVIDERS)
HEADER_NAMES = st.sampled_from(
    [
        b"x-request-network-signature",
        b"x-amn-signature",
        b"x-shkeeper-api-key",
        b"x-shkeeper-signature",
        b"x-shkeeper-timestamp",
    ]
)
HEADERS = st.lists(st.tuples(HEADER_NAMES, st.binary(max_size=80)), max_size=6)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "intentId",
        "watchId",
        "event",
        "status",
        "txHash",
        "amount",
        "chainId",
        "token",
        "address",
        "subject",
        "external_id",
        "transactions",
        "crypto",
        "addr",
        "txid",
        "paid",
        "__unread__",
        "unread",
        "self",
    ]
)
STATUSES = st.sampled_from(["confirmed", "balance_changed", "PAID", "unconfirmed", "EXPIRED", "payment.confirmed"])


def door(provider: Provider) -> Door:
    assert provider.door is not None
    return provider.door


def signed_headers(provider: Provider, body: bytes, secret: str) -> list[tuple[bytes, bytes]]:
    """Headers that prove ``body``, as the newest version of the provider sends them."""
    signature = sign(body, secret).encode()
    if provider.name == "shkeeper":
        return [(n.encode(), v.encode()) for n, v in shkeeper_headers(body, secret, timestamp="1711111111").items()]
    name = b"x-amn-signature" if provider.name == "amn.scanner" else b"x-request-network-signature"
    return [(name, signature)]


@given(PROVIDER, HEADERS, st.binary(max_size=200))
def test_no_headers_raise_or_pass(provider: Provider, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    assert not door(provider).is_authentic(headers, body, SECRETS)
    assert not door(provider).is_authentic(headers, body, ())


@given(PROVIDER, st.binary(min_size=1, max_size=200), st.integers(0, 255), st.integers(0, 63))
def test_one_changed_digit_bit_or_secret_is_refused(provider: Provider, body: bytes, bit: int, place: int) -> None:
    judge = door(provider).is_authentic
    headers = signed_headers(provider, body, SECRETS[1])
    assert judge(headers, body, SECRETS)
    assert not judge(headers, body, SECRETS[:1])
    changed = bytearray(body)
    changed[bit % len(body)] ^= 1 << (bit % 8)
    assert not judge(headers, bytes(changed), SECRETS)
    forged = [
        (name, value[:place] + (b"0" if value[place : place + 1] != b"0" else b"1") + value[place + 1 :])
        if name.endswith(b"signature")
        else (name, value)
        for name, value in headers
    ]
    assert not judge(forged, body, SECRETS)


@given(SOURCE, st.binary(max_size=300))
def test_arbitrary_bytes_are_an_event_or_malformed(provider: Provider, body: bytes) -> None:
    read(provider, body)
    assert subject_of(body) is None or b"d" in body


@given(SOURCE, STATUSES | ANY_TEXT, st.dictionaries(FIELDS | ANY_TEXT, VALUES, max_size=8))
def test_arbitrary_fields_are_an_event_or_malformed(provider: Provider, name: str, fields: dict[str, Any]) -> None:
    named = {"event": name, "status": name, "intentId": "one", "external_id": "one", "request": {}}
    read(provider, json.dumps(named | fields).encode())


def read(provider: Provider, body: bytes) -> None:
    said = parsed(provider, body)
    assert said.encode()  # fit for a log and a database


def parsed(provider: Provider, body: bytes) -> str:
    """The event's name, or what is said against the body."""
    try:
        return provider.parse(body).event
    except MalformedEvent as error:
        return str(error)


@given(PROVIDER, st.lists(st.tuples(st.binary(max_size=100), st.binary(max_size=700)), max_size=50), st.binary())
def test_arbitrary_headers_can_be_stored(provider: Provider, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    delivery = door(provider).read_delivery(headers, body)
    assert delivery.provider == provider.name
    assert delivery.key.isascii()
    assert "\\u0000" not in delivery.headers
    assert isinstance(json.loads(delivery.headers), dict)
