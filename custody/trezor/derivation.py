"""BIP-32 derivation paths as text and as the numbers a device takes.

The library's own formatter refuses every path that mixes hardened and plain steps (trezor 0.20.2), so the
fleet has its own. Source: BIP-32, BIP-44.
"""

from __future__ import annotations

import re
from typing import Final

HARDENED: Final = 1 << 31
MAX_DEPTH: Final = 10  # the device takes at most 8; a longer text is a mistake, not a path
_STEP: Final = re.compile(r"(0|[1-9][0-9]{0,9})(['h]?)")

TREASURY_PATH: Final = "m/44'/60'/4'/0/0"
SAFE_OWNER_PATH: Final = "m/44'/60'/3'/0/0"
"""Accounts of their own: a signature of a Safe's owner or a treasury is worth nothing elsewhere (R6)."""
ACCOUNT_DEPTH: Final = 3


class DerivationPathError(ValueError):
    """A derivation path is not in the form m/44'/60'/0'/0/0."""


def parse_derivation_path(text: str) -> tuple[int, ...]:
    """The steps of `m/44'/60'/0'/0/0` as numbers, hardened ones with the top bit set.

    `'` and `h` both mark a hardened step. Raises DerivationPathError, naming the step, for anything else.
    """
    head, *steps = text.split("/")
    if head != "m" or not 1 <= len(steps) <= MAX_DEPTH:
        raise DerivationPathError(
            f"derivation path {text!r}: expected the form m/44'/60'/0'/0/0 with 1 to {MAX_DEPTH} steps",
        )
    return tuple(_parse_step(text, step) for step in steps)


def format_derivation_path(steps: tuple[int, ...]) -> str:
    """The text of a path, hardened steps marked with `'`. Raises DerivationPathError for a number out of
    range.
    """
    for step in steps:
        if not 0 <= step < 2 * HARDENED:
            raise DerivationPathError(f"derivation step {step}: expected 0 up to 2^32 less one")
    return "/".join(["m", *(f"{step - HARDENED}'" if step >= HARDENED else str(step) for step in steps)])


def _parse_step(text: str, step: str) -> int:
    match = _STEP.fullmatch(step)
    if match is None or int(match[1]) >= HARDENED:
        raise DerivationPathError(
            f"derivation path {text!r}, step {step!r}: expected a number below 2^31, then ' or h if hardened",
        )
    return int(match[1]) + (HARDENED if match[2] else 0)
