"""What the software device says of itself: which model it is, backed up, with strict safety checks."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from trezorlib import messages
from trezorlib.messages import Capability


class Model(StrEnum):
    """The models that can be played. A core model shows typed data field by field; a One cannot (R2)."""

    ONE = "T1B1"
    SAFE_5 = "T3T1"


_NAMES: Final = {Model.ONE: "1", Model.SAFE_5: "Safe 5"}
_VERSIONS: Final = {Model.ONE: (1, 14, 2), Model.SAFE_5: (2, 8, 9)}


def describe(
    model: Model,
    *,
    device_id: str,
    pin_on: bool,
    unlocked: bool,
    passphrase_on: bool,
    session: bytes | None,
    initialized: bool = True,
    bootloader: bool = False,
) -> messages.Features:
    """The Features message; `session` only in the answer to Initialize."""
    major, minor, patch = _VERSIONS[model]
    return messages.Features(
        vendor="trezor.io",
        major_version=major,
        minor_version=minor,
        patch_version=patch,
        device_id=device_id,
        label="Software device",
        initialized=initialized,
        bootloader_mode=bootloader or None,
        pin_protection=pin_on,
        unlocked=unlocked,
        passphrase_protection=passphrase_on,
        backup_availability=messages.BackupAvailability.NotAvailable,
        unfinished_backup=False,
        no_backup=False,
        safety_checks=messages.SafetyCheckLevel.Strict,
        model=_NAMES[model],
        internal_model=model.value,
        firmware_present=True,
        capabilities=[Capability.Bitcoin, Capability.Crypto, Capability.Ethereum],
        session_id=session,
    )
