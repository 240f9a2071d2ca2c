"""Strict readers for the fields of JSON-RPC answers.

A node's answer is input like any other: each field is checked for type, form and length before it is used.
Source: Ethereum JSON-RPC specification, encodings QUANTITY and DATA.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

# No field the fleet reads is wider than an EVM word; a longer quantity is not a number of this chain.
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
# Heights, counts and seconds that no chain reaches are a lie, and Postgres or a calendar could not hold them.
COUNT_MAXIMUM: Final = 2**63 - 1
TIMESTAMP_MAXIMUM: Final = 253_402_300_799  # the end of the year 9999
# How much of a wrong value an error shows: enough to recognise it, too little to flood a log.
_SHOWN = 80


class MalformedAnswer(ValueError):
    """A field of a node's answer has not the form that the JSON-RPC specification gives it."""


def _wrong(field: str, expected: str, value: object) -> MalformedAnswer:
    return MalformedAnswer(f"{field}: expected {expected}, the node answered {repr(value)[:_SHOWN]}")


def quantity(value: object, field: str, maximum: int | None = None) -> int:
    """Return a QUANTITY (0x and 1 to 64 hex digits, at most `maximum`) as int.

    Raises MalformedAnswer naming the field.
    """
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise _wrong(field, "a hex quantity of at most 32 bytes", value)
    number = int(value, 16)
    if maximum is not None and number > maximum:
        raise _wrong(field, f"at most {maximum}", value)
    return number


def data(value: object, field: str) -> bytes:
    """Return DATA (0x and whole bytes in hex). Raises MalformedAnswer naming the field."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise _wrong(field, "hex data of whole bytes", value)
    return bytes.fromhex(value[2:])


def hash32(value: object, field: str) -> str:
    """Return a 32-byte hash as lower-case hex with 0x. Raises MalformedAnswer naming the field."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise _wrong(field, "a 32-byte hash", value)
    return value.lower()


def address(value: object, field: str) -> ChecksumAddress:
    """Return a 20-byte address with its EIP-55 checksum; the zero address is a legal answer here.

    Raises MalformedAnswer naming the field.
    """
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise _wrong(field, "a 20-byte address", value)
    return to_checksum_address(value)


def member(value: object, field: str) -> Mapping[str, object]:
    """Return a JSON object. Raises MalformedAnswer naming the field."""
    if not isinstance(value, Mapping):
        raise _wrong(field, "an object", value)
    return cast(Mapping[str, object], value)


def items(value: object, field: str) -> Sequence[object]:
    """Return a JSON array. Raises MalformedAnswer naming the field."""
    if not isinstance(value, list | tuple):
        raise _wrong(field, "an array", value)
    return cast(Sequence[object], value)
