"""The text that a device signs to register (R6): built from typed fields on the signer's machine, never sent to it.

The verb first, longer than 32 bytes, in rows of 18 columns as every text for a device (R18). Where it is for stands in it:
the API's host and the fingerprint of its certificate, so that a text signed for one API is worth nothing at another.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from custody.settings.environment import FleetSettings, SettingsError
from custody.trezor.text_rows import COLUMNS, TextNotShowable, in_rows

REGISTER_VERB: Final = "REGISTER amanat"
CHALLENGE_SECONDS: Final = 120  # R6; a person compares twelve rows in less
NONCE_BYTES: Final = 16
PIN_CHARACTERS: Final = 32  # 128 bits of the pin: two rows
NO_CERTIFICATE: Final = "no TLS, loopback"
HOST_CHARACTERS_MAXIMUM: Final = 2 * COLUMNS
USER_CHARACTERS: Final = 8  # the last ones, as of an instruction: a UUIDv7 begins with the time

_HOST: Final = re.compile(r"[a-z0-9][a-z0-9.-]*:[0-9]{1,5}|\[[0-9a-f:]+\]:[0-9]{1,5}")
_PIN: Final = re.compile(r"[0-9a-f]{64}")
_NONCE: Final = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class ApiPlace:
    """An API as both sides know it: ``host`` HOST:PORT in lower case, ``pin`` SHA-256 of its certificate's public key or None.

    Raises ValueError for anything else.
    """

    host: str
    pin: str | None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host) or len(self.host) > HOST_CHARACTERS_MAXIMUM:
            raise ValueError(
                f"host {self.host!r}: expected HOST:PORT in lower case, at most {HOST_CHARACTERS_MAXIMUM} characters"
            )
        if self.pin is not None and not _PIN.fullmatch(self.pin):
            raise ValueError("certificate pin: expected 64 hex digits, the SHA-256 of the certificate's public key")

    @property
    def shown_pin(self) -> str:
        """What the device shows of the certificate."""
        return NO_CERTIFICATE if self.pin is None else self.pin[:PIN_CHARACTERS]


def place_of(settings: FleetSettings) -> ApiPlace:
    """The API that this fleet runs, as signers' machines reach it. Raises SettingsError."""
    host = settings.signer_api_public_host or f"{settings.signer_api_host}:{settings.signer_api_port}"
    try:
        return ApiPlace(host.lower(), settings.signer_api_certificate_pin)
    except ValueError as error:
        raise SettingsError(f"SIGNER_API_PUBLIC_HOST: {error}") from None


def register_text(
    *, place: ApiPlace, nonce: str, expires_at: datetime, address: str, user_id: UUID, device_fingerprint: str
) -> str:
    """At most 216 characters: verb, host, certificate, nonce, address, user and device, expiry.

    ``nonce`` 32 hex digits, ``device_fingerprint`` 8. Raises TextNotShowable.
    """
    if not _NONCE.fullmatch(nonce):
        raise TextNotShowable(f"nonce: expected {2 * NONCE_BYTES} hex digits")
    if not _FINGERPRINT.fullmatch(device_fingerprint):
        raise TextNotShowable("device fingerprint: expected 8 hex digits")
    return in_rows(
        verb=REGISTER_VERB,
        host=place.host,
        certificate=place.shown_pin,
        nonce=nonce,
        address=address,
        user=f"{str(user_id)[-USER_CHARACTERS:]}/{device_fingerprint}",
        expiry=f"{expires_at.astimezone(UTC):%m-%d %H:%M:%S} UTC",
    )
