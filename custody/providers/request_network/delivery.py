"""One webhook delivery of Request Network as it is journalled: known by the sender's id, tests apart."""

import hashlib
import json
import re
from typing import Final

from custody.providers.delivery import (
    HEADER_VALUE_LIMIT,
    HEADERS_LIMIT,
    Delivery,
    RawHeaders,
    body_key,
    header,
    kept_headers,
)
from custody.providers.request_network import PROVIDER

__all__ = ["HEADERS_LIMIT", "HEADER_VALUE_LIMIT", "SIGNATURE_HEADER", "kept_headers", "read_delivery"]

SIGNATURE_HEADER: Final = b"x-request-network-signature"
DELIVERY_HEADER: Final = b"x-request-network-delivery"
TEST_HEADER: Final = b"x-request-network-test"

_DELIVERY_ID: Final = re.compile(rb"[\x21-\x7e]{1,64}")  # a ULID has 26
_NOT_TEST: Final = frozenset({b"", b"0", b"false"})


def read_delivery(headers: RawHeaders, body: bytes) -> Delivery:
    """The delivery to journal. Never raises, whatever the bytes.

    A test delivery has a key of its own (``test:`` before it): the test flag is not signed, so one that
    somebody else sends again as a test must not take the place of the one that is none.
    """
    pairs = list(headers)
    digest = hashlib.sha256(body).digest()
    given = header(pairs, DELIVERY_HEADER)
    key = body_key(digest)
    if given is not None and _DELIVERY_ID.fullmatch(given):
        key = given.decode("ascii")
    is_test = any(name.lower() == TEST_HEADER and value.strip().lower() not in _NOT_TEST for name, value in pairs)
    return Delivery(
        provider=PROVIDER,
        key=f"test:{key}" if is_test else key,
        body=body,
        body_sha256=digest,
        headers=json.dumps(kept_headers(pairs)),
        is_test=is_test,
    )
