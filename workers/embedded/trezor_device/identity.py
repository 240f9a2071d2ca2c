"""What the software device says of itself: a Trezor One 1.14.2, backed up, with strict safety checks."""

from __future__ import annotations

from typing import Final

from trezorlib import messages
from trezorlib.messages import Capability

VERSION: Final = (1, 14, 2)
MODEL: Final = "T1B1"


def describe(
    *, device_id: str, pin_on: bool, unlocked: bool, passphrase_on: bool, session: bytes | None
) -> messages.Features:
    """The Features message; `session` only in the answer to Initialize."""
    return messages.Features(
        vendor="trezor.io",
        major_version=VERSION[0],
        minor_version=VERSION[1],
        patch_version=VERSION[2],
        device_id=device_id,
        label="Software device",
        initialized=True,
        pin_protection=pin_on,
        unlocked=unlocked,
        passphrase_protection=passphrase_on,
        backup_availability=messages.BackupAvailability.NotAvailable,
        unfinished_backup=False,
        no_backup=False,
        safety_checks=messages.SafetyCheckLevel.Strict,
        model="1",
        internal_model=MODEL,
        firmware_present=True,
        capabilities=[Capability.Bitcoin, Capability.Crypto, Capability.Ethereum],
        session_id=session,
    )
