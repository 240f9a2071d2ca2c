"""The transaction a device signs, against eth_account as an independent oracle."""

from __future__ import annotations

from typing import Any, cast

import pytest
import rlp
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_keys.constants import SECPK1_N
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.trezor import (
    Signature,
    SignatureError,
    TransactionError,
    UnsignedTransaction,
    decode_erc20_transfer,
    encode_erc20_transfer,
    recover_signer,
)
from custody.trezor.transaction import LARGEST_LOW_S, NONCE_LIMIT, message_hash

KEY = "0x" + "4c" * 32
SIGNER = cast("str", Account.from_key(KEY).address)
RECIPIENT = "0x73d0385F4d8E00C5e6504C6030F47BF6212736A8"
GOOD: dict[str, Any] = {
    "chain_id": 56,
    "nonce": 3,
    "max_priority_fee_per_gas": 1,
    "max_fee_per_gas": 5,
    "gas_limit": 65_000,
    "to": RECIPIENT,
    "value": 0,
    "data": b"",
}

addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)


@st.composite
def transactions(draw: st.DrawFn) -> UnsignedTransaction:
    max_fee = draw(st.integers(0, 2**128))
    return UnsignedTransaction(
        chain_id=draw(st.integers(1, 2**64 - 1)),
        nonce=draw(st.integers(0, NONCE_LIMIT - 1)),
        max_priority_fee_per_gas=draw(st.integers(0, max_fee)),
        max_fee_per_gas=max_fee,
        gas_limit=draw(st.integers(21_000, 2**64 - 1)),
        to=draw(addresses),
        value=draw(st.integers(0, 2**256 - 1)),
        data=draw(st.binary(max_size=300)),
    )


def signed_by_oracle(transaction: UnsignedTransaction) -> tuple[Signature, bytes, bytes]:
    signed = Account.sign_transaction(
        {
            "type": 2,
            "chainId": transaction.chain_id,
            "nonce": transaction.nonce,
            "maxPriorityFeePerGas": transaction.max_priority_fee_per_gas,
            "maxFeePerGas": transaction.max_fee_per_gas,
            "gas": transaction.gas_limit,
            "to": transaction.to,
            "value": transaction.value,
            "data": transaction.data,
            "accessList": [],
        },
        KEY,
    )
    return (
        Signature(int(signed.v), int(signed.r), int(signed.s)),
        bytes(signed.raw_transaction),
        bytes(signed.hash),
    )


@settings(max_examples=150, deadline=None)
@given(transactions())
def test_bytes_hash_and_signer_agree_with_the_oracle(transaction: UnsignedTransaction) -> None:
    signature, raw, transaction_hash = signed_by_oracle(transaction)
    assert transaction.signed_raw(signature) == raw
    assert transaction.transaction_hash(signature) == "0x" + transaction_hash.hex()
    assert transaction.recover(signature) == SIGNER
    assert Account.recover_transaction(transaction.signed_raw(signature)) == SIGNER


@settings(max_examples=150, deadline=None)
@given(transactions())
def test_stored_bytes_read_back_to_the_same_transaction(transaction: UnsignedTransaction) -> None:
    assert UnsignedTransaction.from_signing_bytes(transaction.signing_bytes()) == transaction


@settings(max_examples=300, deadline=None)
@given(transactions(), st.data())
def test_damaged_bytes_are_refused_or_mean_exactly_themselves(
    transaction: UnsignedTransaction, data: st.DataObject
) -> None:
    raw = bytearray(transaction.signing_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = UnsignedTransaction.from_signing_bytes(bytes(raw))
    except TransactionError:
        return
    assert read.signing_bytes() == bytes(raw)


def _encoded(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "chain_id": 56,
        "nonce": 3,
        "tip": 1,
        "fee": 5,
        "gas": 65_000,
        "to": bytes.fromhex(RECIPIENT[2:]),
        "value": 0,
        "data": b"",
        "access_list": [],
    }
    return b"\x02" + cast("bytes", rlp.encode([*{**fields, **changes}.values()]))


def test_the_hand_made_encoding_is_accepted() -> None:
    assert UnsignedTransaction.from_signing_bytes(_encoded()) == UnsignedTransaction(**GOOD)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "type"),
        (b"\x01" + _encoded()[1:], "type"),
        (_encoded()[1:], "type"),
        (b"\x02", "rlp"),
        (_encoded() + b"\x00", "rlp"),
        (_encoded()[:-1], "rlp"),
        (b"\x02" + cast("bytes", rlp.encode(b"text")), "rlp"),
        (_encoded(extra=1), "rlp"),
        (_encoded(nonce=b"\x00\x03"), "nonce"),
        (_encoded(value=b"\x00"), "value"),
        (_encoded(nonce=[]), "nonce"),
        (_encoded(data=[b"a"]), "data"),
        (_encoded(to=b""), "to"),
        (_encoded(to=bytes(19)), "to"),
        (_encoded(chain_id=0), "chain_id"),
        (_encoded(gas=20_999), "gas_limit"),
        (_encoded(tip=6), "max_priority_fee_per_gas"),
        (_encoded(access_list=[[bytes(20), []]]), "access_list"),
        (_encoded(access_list=b""), "access_list"),
        # A single byte below 0x80 in the long form, and a list length in the long form.
        (_encoded().replace(b"\x38\x03", b"\x38\x81\x03", 1), "rlp"),
        (b"\x02\xf8" + _encoded()[1:2] + _encoded()[2:], "rlp"),
    ],
)
def test_malformed_bytes_are_refused_by_field(raw: bytes, field: str) -> None:
    with pytest.raises(TransactionError) as caught:
        UnsignedTransaction.from_signing_bytes(raw)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", 0),
        ("chain_id", 2**64),
        ("nonce", -1),
        ("nonce", NONCE_LIMIT),
        ("max_fee_per_gas", 2**256),
        ("gas_limit", 20_999),
        ("value", -1),
        ("value", True),
        ("max_priority_fee_per_gas", 6),
        ("to", RECIPIENT.lower()),
        ("to", RECIPIENT[:-1] + "b"),
        ("to", ""),
        ("data", "0xa9059cbb"),
        ("data", bytes(131_073)),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(TransactionError) as caught:
        UnsignedTransaction(**{**GOOD, field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("y_parity", (27, 1, 1)),
        ("y_parity", (28, 1, 1)),
        ("y_parity", (37, 1, 1)),
        ("y_parity", (2, 1, 1)),
        ("y_parity", (-1, 1, 1)),
        ("y_parity", (True, 1, 1)),
        ("r", (0, 0, 1)),
        ("r", (0, SECPK1_N, 1)),
        ("s", (0, 1, 0)),
        ("s", (0, 1, LARGEST_LOW_S + 1)),
    ],
)
def test_a_signature_out_of_range_cannot_be_built(field: str, values: tuple[int, int, int]) -> None:
    with pytest.raises(SignatureError) as caught:
        Signature(*values)
    assert caught.value.field == field


def test_the_high_s_twin_of_a_good_signature_is_refused() -> None:
    signature, _, _ = signed_by_oracle(UnsignedTransaction(**GOOD))
    with pytest.raises(SignatureError, match="low s"):
        Signature(1 - signature.y_parity, signature.r, SECPK1_N - signature.s)


def test_an_r_that_is_no_point_of_the_curve_does_not_recover() -> None:
    with pytest.raises(SignatureError):
        UnsignedTransaction(**GOOD).recover(Signature(0, 5, 1))  # x = 5 lies on no point of secp256k1


def test_changing_any_field_changes_the_recovered_signer() -> None:
    transaction = UnsignedTransaction(**GOOD)
    signature, _, _ = signed_by_oracle(transaction)
    changes: dict[str, Any] = {"nonce": 4, "value": 1, "chain_id": 1, "data": b"\x01", "gas_limit": 65_001}
    for field, value in changes.items():
        try:
            signer = UnsignedTransaction(**{**GOOD, field: value}).recover(signature)
        except SignatureError:
            continue
        assert signer != SIGNER


def test_message_hash_is_the_one_of_eip_191() -> None:
    text = "APPROVE release 12 — 100 USDC"
    signed = Account.sign_message(encode_defunct(text=text), KEY)
    signature = Signature(int(signed.v) - 27, int(signed.r), int(signed.s))
    assert recover_signer(message_hash(text), signature) == SIGNER


@given(addresses, st.integers(0, 2**256 - 1))
def test_transfer_call_data_round_trips(recipient: str, amount: int) -> None:
    data = encode_erc20_transfer(recipient, amount)
    assert len(data) == 68
    assert decode_erc20_transfer(data) == (recipient, amount)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_erc20_transfer(RECIPIENT, 1)[:-1],
        encode_erc20_transfer(RECIPIENT, 1) + b"\x00",
        bytes.fromhex("095ea7b3") + encode_erc20_transfer(RECIPIENT, 1)[4:],  # approve
        b"\xa9\x05\x9c\xbb\x01" + encode_erc20_transfer(RECIPIENT, 1)[5:],  # dirty address word
    ],
)
def test_anything_but_a_clean_transfer_is_refused(data: bytes) -> None:
    with pytest.raises(TransactionError):
        decode_erc20_transfer(data)
