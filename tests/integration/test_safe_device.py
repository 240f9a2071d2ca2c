"""A Safe's owner signs on a core model, field by field; a Trezor One is refused before it is asked (R2, R16)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from trezorlib.messages import EthereumSignTypedData, EthereumTypedDataSignature

from custody.safe import SafeTransaction
from custody.safe.signatures import owner_of
from custody.trezor import (
    DeviceRejected,
    Signature,
    WrongSigner,
    encode_erc20_transfer,
    open_device,
)
from custody.trezor.sentences import DeviceRefused, DeviceUnsupported
from workers.embedded.trezor_device import Fault, Model, SoftwareDevice

SEED = "all all all all all all all all all all all all"
FIRST_PATH = "m/44'/60'/0'/0/0"
ADDRESS = "0x73d0385F4d8E00C5e6504C6030F47BF6212736A8"
SAFE = Account.from_key(b"\x0a" * 32).address
TOKEN = Account.from_key(b"\x0b" * 32).address
SELLER = Account.from_key(b"\x0c" * 32).address
PAYOUT = SafeTransaction(8453, SAFE, TOKEN, 0, encode_erc20_transfer(SELLER, 123_456_789), 12)


@pytest.fixture(name="device")
def _device() -> Iterator[SoftwareDevice]:
    with SoftwareDevice(SEED, model=Model.SAFE_5) as running:
        yield running


def _sign(
    device: SoftwareDevice, folder: Path, transaction: SafeTransaction = PAYOUT, said: Mapping[str, Any] | None = None
) -> Signature:
    with open_device(
        device.path,
        expected_address=ADDRESS,
        derivation_path=FIRST_PATH,
        passphrase="",
        approval_timeout_seconds=10,
        lock_folder=folder,
    ) as opened:
        return opened.sign_safe_transaction(said or transaction.typed_data(), transaction.hash())


@pytest.mark.parametrize(
    "transaction",
    [PAYOUT, PAYOUT.rejection(), SafeTransaction(1, SAFE, SELLER, 10**18, b"", 0)],
    ids=["token", "rejection", "native"],
)
def test_the_device_hashes_what_it_shows_and_signs_that(
    device: SoftwareDevice, tmp_path: Path, transaction: SafeTransaction
) -> None:
    signature = _sign(device, tmp_path, transaction)
    assert owner_of(transaction.hash(), signature, [ADDRESS]).owner == ADDRESS
    shown = [line for screen in device.screens for line in screen]
    joined = "".join(shown)
    for value in (transaction.to, transaction.safe, str(transaction.chain_id)):
        assert value in joined
    assert [screen[0] for screen in device.screens][:3] == [
        "EIP712Domain.chainId",
        "EIP712Domain.verifyingContract",
        "SafeTx.to",
    ]
    assert device.signatures == 1
    traffic = device.traffic
    assert EthereumSignTypedData.MESSAGE_WIRE_TYPE in traffic
    assert EthereumTypedDataSignature.MESSAGE_WIRE_TYPE in traffic


def test_a_trezor_one_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    with SoftwareDevice(SEED) as one:
        with pytest.raises(DeviceUnsupported, match=r"would sign a hash blind\. Use a core model"):
            _sign(one, tmp_path)
        assert one.signatures == 0
        assert one.screens == []
        assert EthereumSignTypedData.MESSAGE_WIRE_TYPE not in one.traffic


def test_fields_that_hash_to_something_else_are_found_out(device: SoftwareDevice, tmp_path: Path) -> None:
    """The device signs what it shows; if this machine meant another transaction, the signature is thrown away."""
    other = SafeTransaction(8453, SAFE, TOKEN, 0, encode_erc20_transfer(SELLER, 1), 12)
    with pytest.raises(WrongSigner, match="The device signed with the key of"):
        _sign(device, tmp_path, PAYOUT, other.typed_data())


def test_a_wrong_key_and_a_no_are_told_apart(device: SoftwareDevice, tmp_path: Path) -> None:
    device.fault = Fault.WRONG_SIGNATURE
    with pytest.raises(WrongSigner):
        _sign(device, tmp_path)
    device.fault = Fault.REJECT
    with pytest.raises(DeviceRejected):
        _sign(device, tmp_path)
    device.fault = None
    assert _sign(device, tmp_path)


def test_a_value_of_another_size_than_its_type_is_refused(device: SoftwareDevice, tmp_path: Path) -> None:
    said = PAYOUT.typed_data()
    said["message"]["to"] = SELLER[:-2]
    with pytest.raises(DeviceRefused):
        _sign(device, tmp_path, PAYOUT, said)
    assert device.signatures == 0
