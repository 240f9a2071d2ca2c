"""The software device's keys: BIP-39 seed, BIP-32 keys, and the path check that firmware 1.14.2 makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bip_utils import (
    Bip32KeyIndex,
    Bip32Slip10Secp256k1,
    Bip39MnemonicValidator,
    Bip39SeedGenerator,
)
from eth_keys.datatypes import PrivateKey

if TYPE_CHECKING:
    from bip_utils.bip.bip32.base import Bip32Base

HARDENED: Final = 1 << 31
MAX_ACCOUNT: Final = 100
MAX_ADDRESS_INDEX: Final = 1_000_000
ETHEREUM_COINS: Final = frozenset({60, 1})


@dataclass(frozen=True, slots=True)
class PublicNode:
    """The public half of one BIP-32 node, as the wire protocol carries it."""

    depth: int
    parent_fingerprint: int
    child_number: int
    chain_code: bytes
    public_key: bytes
    xpub: str


class Wallet:
    """Keys of one mnemonic and passphrase. Raises ValueError for words that are not a BIP-39 mnemonic."""

    def __init__(self, mnemonic: str, passphrase: str = "") -> None:
        if not Bip39MnemonicValidator().IsValid(mnemonic):
            raise ValueError("the seed is not a BIP-39 mnemonic with a right checksum")
        self._root: Bip32Base = Bip32Slip10Secp256k1.FromSeed(Bip39SeedGenerator(mnemonic).Generate(passphrase))
        self._nodes: dict[tuple[int, ...], Bip32Base] = {}

    def private_key(self, path: Sequence[int]) -> PrivateKey:
        """The key of a path."""
        return PrivateKey(self._node(path).PrivateKey().Raw().ToBytes())

    def public_node(self, path: Sequence[int]) -> PublicNode:
        """The public node of a path with its extended public key (xpub version bytes)."""
        node = self._node(path)
        key = node.PublicKey()
        return PublicNode(
            depth=node.Depth().ToInt(),
            parent_fingerprint=int.from_bytes(node.ParentFingerPrint().ToBytes(), "big"),
            child_number=node.Index().ToInt(),
            chain_code=node.ChainCode().ToBytes(),
            public_key=key.RawCompressed().ToBytes(),
            xpub=key.ToExtended(),
        )

    def _node(self, path: Sequence[int]) -> Bip32Base:
        steps = tuple(path)
        if steps not in self._nodes:
            node = self._root
            for step in steps:
                node = node.ChildKey(Bip32KeyIndex(step))
            self._nodes[steps] = node
        return self._nodes[steps]


def path_allowed(path: Sequence[int], *, export: bool) -> bool:
    """Whether a device with strict safety checks uses this path for Ethereum.

    m/44'/60'/a', m/44'/60'/0'/i and m/44'/60'/a'/c/i with coin 60 or 1, account up to 100, change 0 or 1 and
    index up to a million; for an exported public key anything below m/44'/60'/a'. (A device also takes the
    rarely used 45' paths; this one does not.)
    """
    if len(path) < 3 or path[0] != 44 + HARDENED:
        return False
    coin, account = path[1] - HARDENED, path[2] - HARDENED
    if coin not in ETHEREUM_COINS or not 0 <= account <= MAX_ACCOUNT:
        return False
    if export or len(path) == 3:
        return True
    if len(path) == 4:
        return account == 0 and path[3] <= MAX_ACCOUNT
    return len(path) == 5 and path[3] <= 1 and path[4] <= MAX_ADDRESS_INDEX
