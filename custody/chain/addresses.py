"""EVM addresses as people and files give them: parsed once, kept with their EIP-55 checksum."""

import re
from functools import lru_cache
from typing import Final

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

KEPT_ADDRESSES: Final = 4_096
"""The signed files are read anew at each decision, and a checksum is a hash: those of the addresses met last are kept."""

ZERO_ADDRESS: Final = to_checksum_address(bytes(20))
_FORM = re.compile(r"0x[0-9a-fA-F]{40}")


class InvalidAddress(ValueError):
    """A text that is not an address money may be tied to; the message says what is wrong and what to do."""


_OTHERS: Final = (
    (re.compile(r"[\w-]+(\.[\w-]+)*\.eth", re.IGNORECASE), "an ENS name, which can lead elsewhere tomorrow"),
    (re.compile(r"T[1-9A-HJ-NP-Za-km-z]{33}"), "a Tron address"),
    (re.compile(r"[EUk0]Q[\w-]{46}|-?[01]:[0-9a-fA-F]{64}"), "a TON address"),
)
"""What people paste by mistake, and what to call it (R24)."""


@lru_cache(KEPT_ADDRESSES)
def _checksummed(value: str) -> ChecksumAddress:
    return to_checksum_address(value)


def _what_it_is(value: object) -> str:
    if not isinstance(value, str):
        return ""
    found = next((name for form, name in _OTHERS if form.fullmatch(value)), None)
    return "" if found is None else f": it is {found}; ask for the address itself, on the chain that pays"


def parse_address(
    value: str, *, field: str = "address", require_checksum: bool = False, allow_zero: bool = False
) -> ChecksumAddress:
    """Return `value` with its EIP-55 checksum.

    An address all in lower or all in upper case carries no checksum (EIP-55); it is accepted unless
    `require_checksum`. Mixed case must be right. The zero address is refused unless `allow_zero`, because
    coins sent there are gone. Raises InvalidAddress naming `field`.
    """
    # The declared type is not enough: values come from files and from JSON.
    if not isinstance(value, str) or not _FORM.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidAddress(f"{field}: expected 0x and 40 hex digits, got {repr(value)[:80]}{_what_it_is(value)}")
    checksummed = _checksummed(value)
    digits = value[2:]
    carries_checksum = digits not in (digits.lower(), digits.upper())
    if value != checksummed and (carries_checksum or require_checksum):
        raise InvalidAddress(
            f"{field}: {value} has a wrong EIP-55 checksum, a digit or a letter's case was changed; "
            f"copy the address again from its source (this text would be {checksummed})"
        )
    if checksummed == ZERO_ADDRESS and not allow_zero:
        raise InvalidAddress(f"{field}: the zero address is refused, coins sent there are lost")
    return checksummed
