"""Addresses from one BIP-32 account: ``m/44'/60'/0'/0/{index}`` for deposits, another account for other roles.

The public side (an account xpub) is all that issuing needs. The private side is called by the keys agent alone.
Sources: BIP-32, BIP-39, BIP-44, SLIP-44 (60), EIP-55. bip-utils does the arithmetic, imported where it is used.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

if TYPE_CHECKING:
    from bip_utils.bip.bip32 import Bip32Base

ACCOUNT_PATH: Final = "m/44'/60'/0'"
ACCOUNT_DEPTH: Final = 3
_HARDENED_ZERO: Final = 1 << 31
INDEX_LIMIT: Final = 1 << 31
"""Indices from here on are hardened: an xpub cannot derive them."""
_XPUB_CHARACTERS_MAXIMUM: Final = 112  # an extended key has 111 base58 characters
_ACCOUNT: Final = re.compile(r"m/44'/60'/(0|[1-9][0-9]{0,8})'")


class DerivationError(ValueError):
    """An extended key, phrase or index that no deposit address may come from. Never carries key material."""


def derivation_path(index: int, account: str = ACCOUNT_PATH) -> str:
    """The path of one address of ``account`` as text. Raises DerivationError for an index out of range."""
    return f"{account}/0/{_checked_index(index)}"


def address_at(xpub: str, index: int, account: str = ACCOUNT_PATH) -> ChecksumAddress:
    """The checksum address of child 0/``index`` of the xpub of ``account``.

    Raises DerivationError for a private or foreign extended key, one that is not of depth 3 or of another account, or
    a wrong index.
    """
    public = _external_chain(xpub, account).ChildKey(_checked_index(index)).PublicKey().RawUncompressed().ToBytes()
    return to_checksum_address(keccak(public[1:])[-20:])


def xpub_fingerprint(xpub: str, account: str = ACCOUNT_PATH) -> str:
    """The account key's BIP-32 fingerprint, 0x and 8 hex digits. Raises DerivationError as ``address_at``."""
    return "0x" + _account(xpub, account).FingerPrint().ToBytes().hex()


def account_key(xpub: str, account: str = ACCOUNT_PATH) -> tuple[bytes, bytes]:
    """The account's compressed public key (33 bytes) and chain code (32). Raises DerivationError as ``address_at``."""
    key = _account(xpub, account)
    return key.PublicKey().RawCompressed().ToBytes(), key.ChainCode().ToBytes()


def seed_from_phrase(phrase: str) -> bytes:
    """The 64-byte BIP-39 seed of a phrase without passphrase. Raises DerivationError; never shows the phrase."""
    from bip_utils import Bip39MnemonicValidator, Bip39SeedGenerator

    words = " ".join(phrase.split())
    if not Bip39MnemonicValidator().IsValid(words):
        raise DerivationError("deposit seed: expected a BIP-39 phrase of 12 to 24 English words")
    return Bip39SeedGenerator(words).Generate()


def account_xpub_from_seed(seed: bytes) -> str:
    """The account xpub (``m/44'/60'/0'``) of a BIP-39 seed. Raises DerivationError for a seed of a wrong length."""
    return _account_of_seed(seed).PublicKey().ToExtended()


def private_key_at(seed: bytes, index: int) -> bytes:
    """The 32-byte private key of child 0/``index``. Called by ``keys.vault`` alone (R20): one child key and the
    xpub give every other child's.

    Raises DerivationError for a wrong index or seed.
    """
    checked = _checked_index(index)
    return _account_of_seed(seed).ChildKey(0).ChildKey(checked).PrivateKey().Raw().ToBytes()


def private_keys_at(seed: bytes, indices: Sequence[int]) -> list[bytes]:
    """``private_key_at`` of many indices, in order; their common parent is derived once. For ``keys.vault`` alone (R20)."""
    parent = _account_of_seed(seed).ChildKey(0)
    return [parent.ChildKey(_checked_index(index)).PrivateKey().Raw().ToBytes() for index in indices]


def _checked_index(index: int) -> int:
    if isinstance(index, bool) or not 0 <= index < INDEX_LIMIT:
        raise DerivationError(f"derivation index: expected 0 to 2^31 - 1, got {index!r}")
    return index


def _account_of_seed(seed: bytes) -> "Bip32Base":
    from bip_utils import Bip32Slip10Secp256k1

    if len(seed) != 64:
        raise DerivationError(f"deposit seed: expected the 64 bytes BIP-39 makes of a phrase, got {len(seed)}")
    return Bip32Slip10Secp256k1.FromSeedAndPath(seed, ACCOUNT_PATH)


@lru_cache(maxsize=8)  # one account is active, a few are draining
def _external_chain(xpub: str, account: str) -> "Bip32Base":
    return _account(xpub, account).ChildKey(0)


def _account(xpub: str, path: str) -> "Bip32Base":
    from bip_utils import Base58ChecksumError, Bip32KeyError, Bip32Slip10Secp256k1

    # Refused by its first letters, before a library sees it: a private key must not get into anyone's error.
    if not xpub.startswith("xpub") or len(xpub) > _XPUB_CHARACTERS_MAXIMUM:
        raise DerivationError(
            "xpub: expected an extended public key, xpub and about 107 characters; a private one (xprv) is refused"
        )
    try:
        account = Bip32Slip10Secp256k1.FromExtendedKey(xpub)
    except (Bip32KeyError, Base58ChecksumError, ValueError):
        raise DerivationError("xpub: not a valid extended public key; copy it again from its source") from None
    if not account.IsPublicOnly():
        raise DerivationError("xpub: a private extended key is refused")
    found = _ACCOUNT.fullmatch(path)
    if found is None:
        raise DerivationError(f"account: expected a path such as {ACCOUNT_PATH}, got {path!r}")
    depth, child = account.Depth().ToInt(), account.Index().ToInt()
    if depth != ACCOUNT_DEPTH or child != _HARDENED_ZERO + int(found[1]):
        of = f"depth {depth}" if depth != ACCOUNT_DEPTH else f"account {child - _HARDENED_ZERO}"
        raise DerivationError(
            f"xpub: expected the account {path} (depth {ACCOUNT_DEPTH}), got {of}; export the xpub of {path}"
        )
    return account
