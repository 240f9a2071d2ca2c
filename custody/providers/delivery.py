"""One webhook delivery as it is journalled, whoever sent it: its key, its body, and the headers worth keeping.

Every header is a stranger's: at most the body is signed. So headers are bounded, credentials in them are never
stored, and none of them decides about money.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HEADERS_LIMIT: Final = 40  # senders give about ten, proxies add some
HEADER_NAME_LIMIT: Final = 64  # characters
HEADER_VALUE_LIMIT: Final = 512  # characters; the longest of interest is a signature with 64

_CREDENTIAL: Final = re.compile(r"auth|cookie|token|secret|passw|api-?key|credential|session|jwt")
_UNSTORABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # NUL fits no jsonb; the rest fools a terminal

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery whose sender was proved. ``headers`` is JSON text."""

    provider: str
    key: str
    body: bytes
    body_sha256: bytes
    headers: str
    is_test: bool


def header(headers: RawHeaders, name: bytes) -> bytes | None:
    """The value of the header ``name`` (lower case), or None if it is missing or there are several."""
    values = [value for given, value in headers if given.lower() == name]
    return values[0] if len(values) == 1 else None


def has_header(headers: RawHeaders, name: bytes) -> bool:
    """Whether the header ``name`` (lower case) is there at all, once or more often."""
    return any(given.lower() == name for given, _ in headers)


def delivery_known_by_body(provider: str, headers: RawHeaders, body: bytes) -> Delivery:
    """The delivery of a sender that gives deliveries no id: the same body again is the same row."""
    digest = hashlib.sha256(body).digest()
    return Delivery(provider, body_key(digest), body, digest, json.dumps(kept_headers(headers)), is_test=False)


def body_key(digest: bytes) -> str:
    """The key of a delivery without an id of its own; ``digest``: SHA-256 of its body."""
    return f"body:{digest.hex()}"


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
