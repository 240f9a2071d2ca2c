"""What is journalled of a delivery besides its body."""

import hashlib
import json

from custody.providers.request_network.delivery import (
    HEADER_VALUE_LIMIT,
    HEADERS_LIMIT,
    kept_headers,
    read_delivery,
)

BODY = b"{}"
BODY_KEY = "body:" + hashlib.sha256(BODY).hexdigest()


def test_the_senders_delivery_id_is_the_key() -> None:
    assert read_delivery([(b"X-Request-Network-Delivery", b"01JABC")], BODY).key == "01JABC"


def test_a_delivery_without_a_sane_id_is_known_by_its_body() -> None:
    for value in (b"", b"x" * 65, b"a b", b"\x00", b"\xff"):
        assert read_delivery([(b"x-request-network-delivery", value)], BODY).key == BODY_KEY
    twice = [(b"x-request-network-delivery", b"a"), (b"x-request-network-delivery", b"b")]
    assert read_delivery(twice, BODY).key == BODY_KEY
    assert read_delivery([], BODY).key == BODY_KEY


def test_the_test_flag_is_read_cautiously_and_takes_no_real_deliverys_place() -> None:
    real = read_delivery([(b"x-request-network-delivery", b"01J")], BODY)
    for value in (b"true", b"TRUE", b"1", b"yes"):
        test = read_delivery([(b"x-request-network-delivery", b"01J"), (b"x-request-network-test", value)], BODY)
        assert test.is_test
        assert test.key != real.key
    for value in (b"false", b"0", b""):
        assert not read_delivery([(b"x-request-network-test", value)], BODY).is_test


def test_credentials_are_not_kept() -> None:
    given = [
        (b"Authorization", b"Bearer abc"),
        (b"Cookie", b"a=b"),
        (b"X-Api-Key", b"k"),
        (b"x-vault-token", b"t"),
        (b"proxy-authorization", b"p"),
        (b"x-request-network-signature", b"5" * 64),
    ]
    assert kept_headers(given) == {"x-request-network-signature": "5" * 64}


def test_headers_are_bounded_and_storable() -> None:
    given = [(b"h%d" % n, b"v" * 10_000) for n in range(200)] + [(b"h0", b"again")]
    kept = kept_headers(given)
    assert len(kept) == HEADERS_LIMIT
    assert max(map(len, kept.values())) <= HEADER_VALUE_LIMIT
    written = read_delivery([(b"nul\x00", b"\x00\x1b[31m\xff")], BODY).headers
    assert "\\u0000" not in written
    assert json.loads(written) == {"nul?": "??[31m\xff"}
