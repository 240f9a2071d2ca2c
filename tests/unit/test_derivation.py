"""Deposit addresses: known vectors, and every extended key that must be refused."""

import pytest
from bip_utils import Bip32Slip10Secp256k1

from custody.destinations.derivation import (
    DerivationError,
    account_xpub_from_seed,
    address_at,
    derivation_path,
    private_key_at,
    seed_from_phrase,
    xpub_fingerprint,
)

# What a Trezor shows for this phrase (trezor.md).
PHRASE = "all all all all all all all all all all all all"
XPUB = "xpub6CNFa58kEQJu2hwMVoofpDEKVVSg6gfwqBqE2zHAianaUnQkrJzJJ42iLDp7Dmg2aP88qCKoFZ4jidk3tECdQuF4567NGHDfe7iBRwHxgke"
FIRST = "0x73d0385F4d8E00C5e6504C6030F47BF6212736A8"


def test_the_known_phrase_gives_the_known_account_and_address():
    seed = seed_from_phrase(f"  {PHRASE}\n")
    assert account_xpub_from_seed(seed) == XPUB
    assert address_at(XPUB, 0) == FIRST
    assert derivation_path(7) == "m/44'/60'/0'/0/7"


def test_the_fingerprint_is_the_account_keys():
    key = Bip32Slip10Secp256k1.FromExtendedKey(XPUB)
    assert xpub_fingerprint(XPUB) == "0x" + key.PublicKey().KeyIdentifier()[:4].hex()


def _private(path: str) -> Bip32Slip10Secp256k1:
    key = Bip32Slip10Secp256k1.FromSeedAndPath(seed_from_phrase(PHRASE), path)
    assert isinstance(key, Bip32Slip10Secp256k1)
    return key


def test_a_private_extended_key_is_refused_and_never_shown():
    secret = _private("m/44'/60'/0'").PrivateKey().ToExtended()
    with pytest.raises(DerivationError, match="xprv") as caught:
        address_at(secret, 0)
    shown = repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__context__)
    assert secret not in shown
    assert secret[5:] not in shown


@pytest.mark.parametrize("path", ["m", "m/44'", "m/44'/60'", "m/44'/60'/0'/0", "m/44'/60'/0'/0/0", "m/44'/60'/1'"])
def test_an_xpub_of_another_place_in_the_tree_is_refused(path: str):
    with pytest.raises(DerivationError, match="account m/44'/60'/0'"):
        address_at(_private(path).PublicKey().ToExtended(), 0)


@pytest.mark.parametrize(
    "text", ["", "xpub", XPUB[:-1], XPUB[:-1] + "f", XPUB + "a", "tpub" + XPUB[4:], "xpub" + "1" * 5000]
)
def test_a_damaged_xpub_is_refused(text: str):
    with pytest.raises(DerivationError):
        address_at(text, 0)


@pytest.mark.parametrize("index", [-1, 2**31, True])
def test_an_index_out_of_range_is_refused(index: int):
    with pytest.raises(DerivationError, match="index"):
        address_at(XPUB, index)
    with pytest.raises(DerivationError, match="index"):
        private_key_at(seed_from_phrase(PHRASE), index)


def test_a_wrong_phrase_is_refused_without_being_shown():
    with pytest.raises(DerivationError) as caught:
        seed_from_phrase("zebra " * 12)
    assert "zebra" not in str(caught.value)
    with pytest.raises(DerivationError, match="64 bytes"):
        account_xpub_from_seed(b"short")
