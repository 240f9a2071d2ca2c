"""Deposit addresses without a key, for deployments where no process may hold one (R20).

Each is a CREATE2 forwarder (EIP-1014, ERC-1167) of the treasury's own contracts: it can pay the treasury and nobody else,
and only when the treasury's batcher says so. A Safe treasury's alone. The path says all that an address comes from beside
the treasury: ``create2/ACCOUNT/INDEX``.
"""

import re
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from eth_typing import ChecksumAddress
from eth_utils.crypto import keccak

from custody.destinations.contracts import sweep_contracts
from custody.destinations.derivation import INDEX_LIMIT, DerivationError

FORWARDER_ROOT: Final = "create2"
FLUSHED_STATES: Final = frozenset({"draining", "retired"})
"""States of a former treasury to which its own forwarders are still flushed (R22): they can pay nobody else, and what comes
there is moved to the active one. Never a compromised one: whoever else signs for it would have the coins at once."""
_PATH: Final = re.compile(r"create2/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(0|[1-9][0-9]{0,9})")


def forwarder_salt(account_id: UUID, index: int) -> bytes:
    """The 32-byte salt of an account's forwarder: keccak256 over the account's 16 bytes and the index, 8 bytes, big endian.

    Raises DerivationError for an index out of range.
    """
    if isinstance(index, bool) or not 0 <= index < INDEX_LIMIT:
        raise DerivationError(f"derivation index: expected 0 to 2^31 - 1, got {index!r}")
    return keccak(account_id.bytes + index.to_bytes(8, "big"))


def forwarder_path(account_id: UUID, index: int) -> str:
    """What derivation_path says of a forwarder. Raises DerivationError as ``forwarder_salt``."""
    if isinstance(index, bool) or not 0 <= index < INDEX_LIMIT:
        raise DerivationError(f"derivation index: expected 0 to 2^31 - 1, got {index!r}")
    return f"{FORWARDER_ROOT}/{account_id}/{index}"


def forwarder_at(treasury: str, account_id: UUID, index: int) -> ChecksumAddress:
    """The address, the same on every chain with this treasury. Raises DerivationError."""
    return sweep_contracts(treasury).forwarder(forwarder_salt(account_id, index))


def treasury_of_forwarder(treasuries: Iterable[str], path: str, address: str) -> str | None:
    """Which of these treasuries' forwarder is at ``address`` by its ``path``, the only one that it can ever pay; or None.

    Raises DerivationError for the path of a key.
    """
    salt = salt_of_path(path)
    return next((each for each in treasuries if sweep_contracts(each).forwarder(salt) == address), None)


def salt_of_path(path: str) -> bytes:
    """The salt that a forwarder's derivation_path stands for. Raises DerivationError for the path of a key."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise DerivationError(f"path: expected {FORWARDER_ROOT}/ACCOUNT/INDEX of a forwarder, got {path!r}")
    return forwarder_salt(UUID(found[1]), int(found[2]))
