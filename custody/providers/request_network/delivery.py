"""One webhook delivery as it is journalled: its key, its body, and the headers worth keeping.

Every header is a stranger's: only the body is signed. So headers are bounded, credentials in them are never
stored, and none of them decides about money.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SIGNATURE_HEADER: Final = b"x-request-network-signature"
DELIVERY_HEADER: Final = b"x-request-network-delivery"
TEST_HEADER: Final = b"x-request-network-test"

HEADERS_LIMIT: Final = 40  # Request Network sends about ten, proxies add some
HEADER_NAME_LIMIT: Final = 64  # characters
HEADER_VALUE_LIMIT: Final = 512  # characters; the longest of interest is the signature with 64

_DELIVERY_ID: Final = re.compile(rb"[\x21-\x7e]{1,64}")  # a ULID has 26
_NOT_TEST: Final = frozenset({b"", b"0", b"false"})
_CREDENTIAL: Final = re.compile(r"auth|cookie|token|secret|passw|api-?key|credential|session|jwt")
_UNSTORABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # NUL fits no jsonb; the rest fools a terminal

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery whose signature was right. ``headers`` is JSON text."""

    key: str
    body: bytes
    body_sha256: bytes
    headers: str
    is_test: bool


def header(headers: RawHeaders, name: bytes) -> bytes | None:
    """The value of the header ``name`` (lower case), or None if it is missing or there are several."""
    values = [value for given, value in headers if given.lower() == name]
    return values[0] if len(values) == 1 else None


def read_delivery(headers: RawHeaders, body: bytes) -> Delivery:
    """The delivery to journal. Never raises, whatever the bytes.

    A test delivery has a key of its own (``test:`` before it): the test flag is not signed, so one that
    somebody else sends again as a test must not take the place of the one that is none.
    """
    pairs = list(headers)
    digest = hashlib.sha256(body).digest()
    given = header(pairs, DELIVERY_HEADER)
    key = f"body:{digest.hex()}"
    if given is not None and _DELIVERY_ID.fullmatch(given):
        key = given.decode("ascii")
    is_test = any(name.lower() == TEST_HEADER and value.strip().lower() not in _NOT_TEST for name, value in pairs)
    return Delivery(
        key=f"test:{key}" if is_test else key,
        body=body,
        body_sha256=digest,
        headers=json.dumps(kept_headers(pairs)),
        is_test=is_test,
    )


def kept_headers(headers: RawHeaders) -> dict[str, str]:
    """What is journalled of the headers: at most HEADERS_LIMIT, each cut short, credentials left out."""
    kept: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = _UNSTORABLE.sub("?", raw_name[:HEADER_NAME_LIMIT].decode("latin-1").lower())
        if _CREDENTIAL.search(name):
            continue
        value = _UNSTORABLE.sub("?", raw_value[:HEADER_VALUE_LIMIT].decode("latin-1"))
        if name in kept:
            kept[name] = f"{kept[name]}, {value}"[:HEADER_VALUE_LIMIT]
        elif len(kept) < HEADERS_LIMIT:
            kept[name] = value
    return kept
