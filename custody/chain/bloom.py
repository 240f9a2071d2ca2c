"""The logs bloom of a block header: what may be in the block, and what is surely not (Yellow Paper, section 4.3.1)."""

from collections.abc import Iterable
from typing import Final

from eth_utils.crypto import keccak

BLOOM_BYTES: Final = 256
_BITS: Final = 8 * BLOOM_BYTES - 1


def may_hold(bloom: bytes, address: str, topics: Iterable[str]) -> bool:
    """Whether a log of that contract with those topics may be in the block; False is certain, True is likely.

    `bloom` has 256 bytes, `address` and `topics` are hex with 0x.
    """
    return all(_has(bloom, bytes.fromhex(item[2:])) for item in (address, *topics))


def bloom_of(items: Iterable[bytes]) -> bytes:
    """The bloom of addresses and topics, as a node computes it."""
    bits = 0
    for item in items:
        for bit in _places(item):
            bits |= 1 << bit
    return bits.to_bytes(BLOOM_BYTES)


def _has(bloom: bytes, item: bytes) -> bool:
    return all(bloom[BLOOM_BYTES - 1 - bit // 8] >> (bit % 8) & 1 for bit in _places(item))


def _places(item: bytes) -> tuple[int, ...]:
    digest = keccak(item)
    return tuple(int.from_bytes(digest[start : start + 2]) & _BITS for start in (0, 2, 4))
