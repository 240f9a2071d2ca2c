"""The signature of a Request Network webhook: lower-case hex HMAC-SHA256 over the raw body bytes.

Source: Request Network documentation, api-reference/webhooks. The key is the secret's text as it was issued,
not the bytes its hex stands for. Only the body is signed: neither time nor delivery id nor test flag.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from custody.providers.hmac_signature import is_signed
from custody.providers.hmac_signature import sign as _sign
from custody.providers.secret_lines import read_secret_lines

SECRET_LEAST: Final = 32  # characters; issued as 64 hex digits, and a short one is a slip


def sign(body: bytes, secret: str) -> str:
    """The signature that Request Network sends with ``body``. ASCII secrets only."""
    return _sign(body, secret)


def is_authentic(body: bytes, signature: bytes | str | None, secrets: Sequence[str]) -> bool:
    """Whether ``signature`` is that of ``body`` under any of ``secrets`` (newest first; two while rotating).

    Never raises on what a stranger sent, and tells by its time neither which secret matched nor how much of it did.
    """
    return is_signed(body, signature, secrets)


def read_webhook_secrets(path: Path) -> tuple[str, ...]:
    """The webhook secrets in ``path``: one a line, newest first, blank lines ignored.

    Raises SettingsError naming the file and the line, never a secret.
    """
    return read_secret_lines(path, what="REQUEST_NETWORK_WEBHOOK_SECRETS_FILE", least=SECRET_LEAST)
