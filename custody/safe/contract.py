"""The few calls and storage slots of a Safe that the fleet knows. Source: Safe 1.3.0 and 1.4.1."""

from collections.abc import Sequence
from typing import Final

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from custody.chain.erc20 import selector

SENTINEL: Final = "0x0000000000000000000000000000000000000001"
"""Begins and ends the Safe's linked lists of owners and modules."""
MODULES_PAGE: Final = 10  # how many modules one sentence names; one is enough to stop everything

VERSION: Final = selector("VERSION()")
GET_OWNERS: Final = selector("getOwners()")
GET_THRESHOLD: Final = selector("getThreshold()")
NONCE: Final = selector("nonce()")
DOMAIN_SEPARATOR: Final = selector("domainSeparator()")
_GET_MODULES_PAGINATED: Final = selector("getModulesPaginated(address,uint256)")
_GET_TRANSACTION_HASH: Final = selector(
    "getTransactionHash(address,uint256,bytes,uint8,uint256,uint256,uint256,address,address,uint256)"
)
EXEC_TRANSACTION: Final = selector(
    "execTransaction(address,uint256,bytes,uint8,uint256,uint256,uint256,address,address,bytes)"
)

SINGLETON_SLOT: Final = 0
GUARD_SLOT: Final = int.from_bytes(keccak(text="guard_manager.guard.address"))
FALLBACK_HANDLER_SLOT: Final = int.from_bytes(keccak(text="fallback_manager.handler.address"))

_TRANSACTION_TYPES: Final = (
    "address", "uint256", "bytes", "uint8", "uint256", "uint256", "uint256", "address", "address",
)  # fmt: skip


def get_modules_call(start: str = SENTINEL) -> bytes:
    """``getModulesPaginated``: the first page after ``start``."""
    return _GET_MODULES_PAGINATED + encode(["address", "uint256"], [start, MODULES_PAGE])


def get_transaction_hash_call(fields: Sequence[object], nonce: int) -> bytes:
    """``getTransactionHash``; ``fields`` as ``execTransaction`` takes them, without the signatures."""
    return _GET_TRANSACTION_HASH + encode([*_TRANSACTION_TYPES, "uint256"], [*fields, nonce])


def exec_transaction_call(fields: Sequence[object], signatures: bytes) -> bytes:
    """``execTransaction`` with the packed signatures of the owners."""
    return EXEC_TRANSACTION + encode([*_TRANSACTION_TYPES, "bytes"], [*fields, signatures])
