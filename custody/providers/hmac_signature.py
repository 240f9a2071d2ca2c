"""Signatures as webhooks carry them: lower-case hex HMAC-SHA256 over raw bytes, the key being a secret's text."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

_SIGNATURE: Final = re.compile(rb"[0-9a-f]{64}")


def sign(message: bytes, secret: str) -> str:
    """The signature of ``message``. ASCII secrets only."""
    return hmac.new(secret.encode("ascii"), message, hashlib.sha256).hexdigest()


def is_signature(value: bytes | None) -> bool:
    """Whether ``value`` has the form of a signature at all."""
    return value is not None and _SIGNATURE.fullmatch(value) is not None


def is_signed(message: bytes, signature: bytes | str | None, secrets: Sequence[str]) -> bool:
    """Whether ``signature`` is that of ``message`` under any of ``secrets``.

    Never raises on what a stranger sent. Every secret is tried in constant time, so the answer's time
    tells neither which one matched nor how much of it did.
    """
    if isinstance(signature, str):
        signature = signature.encode("utf-8", "surrogatepass")
    if signature is None or not is_signature(signature):
        return False
    authentic = False
    for secret in secrets:
        authentic |= hmac.compare_digest(sign(message, secret).encode("ascii"), signature)
    return authentic
