"""A Safe's owners' signatures and its one shape of transaction (R16): everything else cannot be expressed or is refused."""

from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_keys.constants import SECPK1_N
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.safe import (
    OwnerSignature,
    OwnerSignatureRefused,
    SafeTransaction,
    SafeTransactionError,
    pack_signatures,
    read_owner_signature,
)
from custody.safe.signatures import owner_of
from custody.trezor import Signature, encode_erc20_transfer
from tests.safe_world import sign_hash

OWNERS = [Account.from_key(bytes([number]) * 32) for number in (1, 2, 3)]
ADDRESSES = tuple(owner.address for owner in OWNERS)
STRANGER = Account.from_key(b"\x09" * 32)
SAFE = Account.from_key(b"\x0a" * 32).address
TOKEN = Account.from_key(b"\x0b" * 32).address
SELLER = Account.from_key(b"\x0c" * 32).address
PAYOUT = SafeTransaction(31337, SAFE, TOKEN, 0, encode_erc20_transfer(SELLER, 5_000_000), 4)


def _raw(account: LocalAccount, digest: bytes, *, v: int | None = None) -> bytes:
    signature = sign_hash(account, digest)
    packed = OwnerSignature(account.address, signature).packed()
    return packed if v is None else packed[:-1] + bytes([v])


def _signed(account: LocalAccount, transaction: SafeTransaction = PAYOUT) -> OwnerSignature:
    return OwnerSignature(account.address, sign_hash(account, transaction.hash()))


@pytest.mark.parametrize("v", [0, 1, 2, 26, 29, 31, 32, 255])
def test_only_v_27_and_28_are_signatures_of_ours(v: int) -> None:
    with pytest.raises(OwnerSignatureRefused, match=r"kind_of_signature: .* only EIP-712 with v 27 or 28 counts"):
        read_owner_signature(_raw(OWNERS[0], PAYOUT.hash(), v=v))


def test_what_a_device_gives_is_read_back() -> None:
    read = read_owner_signature(_raw(OWNERS[0], PAYOUT.hash()))
    assert owner_of(PAYOUT.hash(), read, ADDRESSES).owner == OWNERS[0].address


def test_a_high_s_is_refused() -> None:
    honest = sign_hash(OWNERS[0], PAYOUT.hash())
    flipped = honest.r.to_bytes(32, "big") + (SECPK1_N - honest.s).to_bytes(32, "big") + bytes([28 - honest.y_parity])
    with pytest.raises(OwnerSignatureRefused, match="low s"):
        read_owner_signature(flipped)


@pytest.mark.parametrize("raw", [b"", b"\x1b", bytes(64), bytes(66), bytes(64) + b"\x1b"])
def test_malformed_ones_are_refused(raw: bytes) -> None:
    with pytest.raises(OwnerSignatureRefused, match="malformed_signature"):
        read_owner_signature(raw)


def test_a_text_over_the_hash_is_no_signature_of_the_hash() -> None:
    """R6: eth_sign over the 32 bytes would count in a Safe with v raised by 4; here it recovers to a stranger."""
    signed = OWNERS[0].sign_message(encode_defunct(PAYOUT.hash()))
    given = Signature(signed.v - 27, signed.r, signed.s)
    with pytest.raises(OwnerSignatureRefused, match="not_an_owner"):
        owner_of(PAYOUT.hash(), given, ADDRESSES)


OTHERS = {
    "another Safe": replace(PAYOUT, safe=SELLER, data=encode_erc20_transfer(SAFE, 5_000_000)),
    "another nonce": replace(PAYOUT, nonce=5),
    "another chain": replace(PAYOUT, chain_id=1),
    "another amount": replace(PAYOUT, data=encode_erc20_transfer(SELLER, 5_000_001)),
    "its rejection": PAYOUT.rejection(),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_signature_of_something_else_is_a_strangers(other: SafeTransaction) -> None:
    assert other.hash() != PAYOUT.hash()
    with pytest.raises(OwnerSignatureRefused, match="not_an_owner"):
        owner_of(PAYOUT.hash(), sign_hash(OWNERS[0], other.hash()), ADDRESSES)


def test_packed_in_the_order_of_owners_whatever_came_first() -> None:
    packed = pack_signatures(PAYOUT.hash(), [_signed(each) for each in OWNERS[:2]], ADDRESSES, 2)
    again = pack_signatures(PAYOUT.hash(), [_signed(each) for each in reversed(OWNERS[:2])], ADDRESSES, 2)
    assert packed == again
    assert len(packed) == 130
    halves = [read_owner_signature(packed[at : at + 65]) for at in (0, 65)]
    found = [owner_of(PAYOUT.hash(), each, ADDRESSES).owner for each in halves]
    assert found == sorted(found, key=str.lower)


def test_more_than_the_threshold_are_not_sent() -> None:
    assert len(pack_signatures(PAYOUT.hash(), [_signed(each) for each in OWNERS], ADDRESSES, 2)) == 130


def test_an_owner_twice_a_stranger_or_too_few_are_refused() -> None:
    digest = PAYOUT.hash()
    with pytest.raises(OwnerSignatureRefused, match="signed_twice"):
        pack_signatures(digest, [_signed(OWNERS[0]), _signed(OWNERS[0])], ADDRESSES, 2)
    with pytest.raises(OwnerSignatureRefused, match="not_an_owner"):
        pack_signatures(digest, [_signed(OWNERS[0]), _signed(STRANGER)], ADDRESSES, 2)
    with pytest.raises(OwnerSignatureRefused, match="not_an_owner"):  # claimed for an owner, made by another key
        pack_signatures(digest, [replace(_signed(STRANGER), owner=OWNERS[1].address)], ADDRESSES, 1)
    with pytest.raises(OwnerSignatureRefused, match="too_few_signatures: 1 of 2"):
        pack_signatures(digest, [_signed(OWNERS[0])], ADDRESSES, 2)


def test_an_owner_who_was_taken_out_of_the_genesis_counts_no_more() -> None:
    with pytest.raises(OwnerSignatureRefused, match="not_an_owner"):
        pack_signatures(PAYOUT.hash(), [_signed(each) for each in OWNERS[:2]], ADDRESSES[1:], 2)


def test_the_stored_bytes_say_every_field() -> None:
    assert SafeTransaction.from_stored_bytes(PAYOUT.stored_bytes()) == PAYOUT
    native = SafeTransaction(31337, SAFE, SELLER, 10**18, b"", 0)
    assert SafeTransaction.from_stored_bytes(native.stored_bytes()) == native
    rejection = PAYOUT.rejection()
    assert rejection.is_rejection
    assert SafeTransaction.from_stored_bytes(rejection.stored_bytes()) == rejection


@given(place=st.integers(0, len(PAYOUT.stored_bytes()) - 1), bit=st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_no_changed_bit_is_the_same_transaction(place: int, bit: int) -> None:
    raw = bytearray(PAYOUT.stored_bytes())
    raw[place] ^= 1 << bit
    try:
        changed = SafeTransaction.from_stored_bytes(bytes(raw))
    except SafeTransactionError:
        return
    assert changed != PAYOUT
    assert changed.hash() != PAYOUT.hash()


@given(st.binary(max_size=700))
@settings(deadline=None)
def test_noise_is_refused_with_a_sentence(raw: bytes) -> None:
    with pytest.raises(SafeTransactionError):
        SafeTransaction.from_stored_bytes(raw)


def _words(**changes: object) -> bytes:
    from eth_abi.abi import encode

    zero = "0x" + "0" * 40
    fields: dict[str, object] = {
        "chain": 31337, "safe": SAFE, "to": TOKEN, "value": 0, "data": PAYOUT.data, "operation": 0, "safe_tx_gas": 0,
        "base_gas": 0, "gas_price": 0, "gas_token": zero, "refund_receiver": zero, "nonce": 4,
    }  # fmt: skip
    types = ["uint256", "address", "address", "uint256", "bytes", "uint8", "uint256", "uint256", "uint256", "address"]
    return encode([*types, "address", "uint256"], list((fields | changes).values()))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"operation": 1}, "operation"),
        ({"safe_tx_gas": 1}, "gas"),
        ({"base_gas": 1}, "gas"),
        ({"gas_price": 1}, "gas"),
        ({"gas_token": TOKEN}, "gas"),
        ({"refund_receiver": SELLER}, "gas"),
        ({"data": b"\x8d\x80\xff\x0a" + bytes(64)}, "data"),  # multiSend(bytes)
        ({"data": PAYOUT.data + b"\x00"}, "data"),
        ({"value": 1}, "value"),
        ({"data": b""}, "value"),
        ({"to": SAFE}, "to"),
        ({"to": "0x" + "0" * 40}, "to"),
        ({"chain": 0}, "chain_id"),
        ({"chain": 2**64}, "chain_id"),
        ({"nonce": 2**64}, "nonce"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_no_other_shape_is_read(changes: dict[str, object], field: str) -> None:
    assert SafeTransaction.from_stored_bytes(_words()) == PAYOUT
    with pytest.raises(SafeTransactionError) as refused:
        SafeTransaction.from_stored_bytes(_words(**changes))
    assert refused.value.field == field
