"""How the software device misbehaves, and who presses its buttons."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong, switchable while the device runs."""

    REJECT = "reject"  # the person says no
    NEVER_ANSWER = "never_answer"  # prompts are shown and nobody presses
    SILENT = "silent"  # the device answers nothing at all
    PIN_LOCKED = "pin_locked"  # locked, and no PIN is the right one
    PASSPHRASE = "passphrase"  # noqa: S105  passphrases are on, so each session must be given one
    OTHER_WALLET = "other_wallet"  # another seed
    BOOTLOADER = "bootloader"  # started with a button held
    WIPED = "wiped"  # no seed in it
    GARBAGE = "garbage"  # damaged packets instead of answers
    WRONG_SIGNATURE = "wrong_signature"  # signs with another key of the same wallet


class Press(StrEnum):
    """Who presses the buttons: always yes, always no, or somebody from outside."""

    YES = "yes"
    NO = "no"
    ASK = "ask"
