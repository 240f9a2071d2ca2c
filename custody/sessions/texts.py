"""The text that a device signs to log in (R6): built from typed fields on the signer's machine, never sent to it.

A template of its own, so that no registration, approval or policy reads like it, and 198 characters at most, so that it
is never the 32 bytes that a Safe would take for an owner's signature.
"""

import re
from datetime import UTC, datetime
from typing import Final

from custody.registration import ApiPlace
from custody.registration.texts import NONCE_BYTES
from custody.trezor.text_rows import TextNotShowable, in_rows

LOGIN_VERB: Final = "LOGIN amanat"
_NONCE: Final = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")


def login_text(*, place: ApiPlace, nonce: str, expires_at: datetime, address: str) -> str:
    """At most 11 rows of 18: verb, the API's host and certificate, nonce, the device's address, expiry.

    ``nonce`` 32 hex digits, ``expires_at`` whole seconds. Raises TextNotShowable.
    """
    if not _NONCE.fullmatch(nonce):
        raise TextNotShowable(f"nonce: expected {2 * NONCE_BYTES} hex digits")
    return in_rows(
        verb=LOGIN_VERB,
        host=place.host,
        certificate=place.shown_pin,
        nonce=nonce,
        address=address,
        expiry=f"{expires_at.astimezone(UTC):%m-%d %H:%M:%S} UTC",
    )
