"""The signature of a Request Network webhook: lower-case hex HMAC-SHA256 over the raw body bytes.

Source: Request Network documentation, api-reference/webhooks. The key is the secret's text as it was issued,
not the bytes its hex stands for. Only the body is signed: neither time nor delivery id nor test flag.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from custody.settings.environment import SettingsError, read_secret_file

_SIGNATURE: Final = re.compile(rb"[0-9a-f]{64}")
_SECRET: Final = re.compile(r"[\x21-\x7e]{32,256}")  # issued as 64 hex digits; a short one is a slip
SECRETS_LIMIT: Final = 4  # a rotation needs two; each one costs an HMAC of every body that anybody sends


def sign(body: bytes, secret: str) -> str:
    """The signature that Request Network sends with ``body``. ASCII secrets only."""
    return hmac.new(secret.encode("ascii"), body, hashlib.sha256).hexdigest()


def is_authentic(body: bytes, signature: bytes | str | None, secrets: Sequence[str]) -> bool:
    """Whether ``signature`` is that of ``body`` under any of ``secrets`` (newest first; two while rotating).

    Never raises on what a stranger sent. Every secret is tried in constant time, so the answer's time
    tells neither which one matched nor how much of it did.
    """
    if isinstance(signature, str):
        signature = signature.encode("utf-8", "surrogatepass")
    if signature is None or not _SIGNATURE.fullmatch(signature):
        return False
    authentic = False
    for secret in secrets:
        authentic |= hmac.compare_digest(sign(body, secret).encode("ascii"), signature)
    return authentic


def read_webhook_secrets(path: Path) -> tuple[str, ...]:
    """The webhook secrets in ``path``: one a line, newest first, blank lines ignored.

    Raises SettingsError naming the file and the line, never a secret.
    """
    what = "REQUEST_NETWORK_WEBHOOK_SECRETS_FILE"
    lines = read_secret_file(path, what=what).splitlines()
    secrets: list[str] = []
    for number, line in enumerate(lines, 1):
        secret = line.strip()
        if not secret:
            continue
        if not _SECRET.fullmatch(secret):
            raise SettingsError(f"{what}: line {number} of {path}: expected 32 to 256 printable ASCII characters")
        secrets.append(secret)
    if not 0 < len(secrets) <= SECRETS_LIMIT:
        raise SettingsError(f"{what}: {path} holds {len(secrets)} secrets, expected 1 to {SECRETS_LIMIT}")
    return tuple(secrets)
