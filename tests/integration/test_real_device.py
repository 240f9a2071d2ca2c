"""A real device or the maker's emulator (TREZOR_TEST_PATH), and the same way on the software device."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

import pytest
from bip_utils import Bip32KeyIndex, Bip32Slip10Secp256k1
from eth_keys.datatypes import PublicKey
from typer.testing import CliRunner

from custody.settings.environment import settings
from custody.trezor import (
    Prompt,
    UnsignedTransaction,
    open_device,
)
from tests.trezor_account import FIRST_PATH, GWEI, SEED, USDC
from workers.cli.device_lost import device as device_group
from workers.cli.device_test import write_json
from workers.embedded.trezor_device import Model, Press, SoftwareDevice
from workers.signer.device_test import BLIND, DebugPresses, try_device


@pytest.mark.parametrize(("model", "signatures", "refused"), [(Model.ONE, 3, 1), (Model.SAFE_5, 4, 0)])
def test_a_device_is_tried_out_with_its_presses_by_the_debug_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model, signatures: int, refused: int
) -> None:
    """The very path of ``TREZOR_TEST_PATH``, on the software device, whose buttons only the debug link presses."""
    with SoftwareDevice(SEED, model=model, buttons=Press.ASK, debug=True) as device:
        monkeypatch.setenv("TREZOR_PATH", device.path)
        monkeypatch.setenv("TREZOR_TEST_DEBUG_PATH", device.debug_path)
        settings.cache_clear()
        found = tmp_path / "device.json"
        done = CliRunner().invoke(device_group, ["test", "--json", str(found)])
        settings.cache_clear()
        assert done.exit_code == 0, done.output
        assert device.signatures == signatures
    said = json.loads(found.read_text())
    assert (said["model"], said["signatures"], said["refused"], said["skipped"]) == (
        model.value,
        signatures,
        refused,
        0,
    )
    assert said["firmware"].count(".") == 2
    assert said["presses"] >= 2 * signatures
    assert [each["outcome"] for each in said["checks"]] == ["signed"] * 3 + ["refused" if refused else "signed"]


@pytest.mark.real_device
@pytest.mark.skipif(
    "TREZOR_TEST_PATH" not in os.environ,
    reason="set TREZOR_TEST_PATH (udp:127.0.0.1:21324, webusb) and confirm on the device to run this",
)
def test_a_real_device_signs_one_of_each_kind(pytestconfig: pytest.Config) -> None:
    """Presses come through TREZOR_TEST_DEBUG_PATH, else from a person; ``--device-json FILE`` says what was signed."""
    debug = os.environ.get("TREZOR_TEST_DEBUG_PATH")

    def tell(prompt: Prompt) -> None:
        sys.stderr.write(f"screen {prompt.number}: confirm it on the device\n")

    report = try_device(os.environ["TREZOR_TEST_PATH"], press=DebugPresses(debug) if debug else tell)
    assert (report.signatures + (report.model in BLIND), report.skipped) == (len(report.checks), 0)
    file: Path | None = pytestconfig.getoption("device_json")
    if file is not None:
        write_json(report, file)


@pytest.mark.real_device
@pytest.mark.skipif(
    "TREZOR_TEST_PATH" not in os.environ,
    reason="set TREZOR_TEST_PATH (udp:127.0.0.1:21324, webusb) and confirm on the device to run this",
)
def test_a_real_device_signs_what_was_previewed() -> None:
    transaction = UnsignedTransaction(1, secrets.randbelow(1_000), GWEI, 2 * GWEI, 21_000, USDC, 10**15)
    with open_device(
        os.environ["TREZOR_TEST_PATH"], expected_address=None, derivation_path=FIRST_PATH, passphrase=""
    ) as opened:
        account = Bip32Slip10Secp256k1.FromExtendedKey(opened.account_xpub("m/44'/60'/0'"))
        first = account.ChildKey(Bip32KeyIndex(0)).ChildKey(Bip32KeyIndex(0))
        key = PublicKey.from_compressed_bytes(first.PublicKey().RawCompressed().ToBytes())
        assert key.to_checksum_address() == opened.address
        assert transaction.recover(opened.sign_transaction(transaction)) == opened.address
