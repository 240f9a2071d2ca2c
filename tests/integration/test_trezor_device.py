"""The trezor library against the software device over UDP, and the fleet's own door in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from trezorlib import client as library
from trezorlib import ethereum
from trezorlib.tools import parse_path
from trezorlib.transport import Timeout
from trezorlib.transport.udp import UdpTransport

from custody.trezor import (
    DeviceBusy,
    DeviceError,
    DeviceGarbled,
    DeviceLocked,
    DeviceNotFound,
    DeviceRejected,
    DeviceTimeout,
    Prompt,
    Signature,
    UnsignedTransaction,
    WrongSigner,
    WrongWallet,
    device_screens,
    open_device,
)
from custody.trezor.sentences import (
    DeviceClosed,
    DeviceDisconnected,
    DeviceNotReady,
    DevicePassphrase,
    DeviceRefused,
    DeviceSessionLost,
    explain,
)
from custody.trezor.transport import DeadlineTransport
from tests.counts import sampled
from tests.trezor_account import ADDRESS, COINS, FIRST_PATH, LONG_CALL, SEED, TRANSFER, XPUB
from workers.embedded.trezor_device import Fault, Press, SoftwareDevice

QUICK_SECONDS = 0.5  # an approval deadline for prompts that nobody will ever answer


@pytest.fixture(name="device")
def _device() -> Iterator[SoftwareDevice]:
    with SoftwareDevice(SEED) as device:
        yield device


def sign(
    device: SoftwareDevice, transaction: UnsignedTransaction = TRANSFER, seconds: float = QUICK_SECONDS
) -> Signature:
    with open_device(
        device.path,
        expected_address=ADDRESS,
        derivation_path=FIRST_PATH,
        approval_timeout_seconds=seconds,
    ) as opened:
        return opened.sign_transaction(transaction)


# The library's own code, without ours


def test_the_library_reads_the_published_address_and_xpub(device: SoftwareDevice) -> None:
    client = library.get_default_client("test", device.path)
    with client:
        session = client.get_session()
        assert ethereum.get_address(session, parse_path(FIRST_PATH)) == ADDRESS
        assert ethereum.get_public_node(session, parse_path("m/44h/60h/0h")).xpub == XPUB
        assert client.ping("here") == "here"
        session.close()
    assert client.model.internal_name == "T1B1"
    assert client.version == (1, 14, 2)


def test_the_library_signs_with_the_measured_message_sequence(device: SoftwareDevice) -> None:
    with library.get_default_client("test", device.path) as client:
        y_parity, r, s = ethereum.sign_tx_eip1559(
            client.get_session(),
            parse_path(FIRST_PATH),
            nonce=COINS.nonce,
            gas_limit=COINS.gas_limit,
            to=COINS.to,
            value=COINS.value,
            chain_id=COINS.chain_id,
            max_gas_fee=COINS.max_fee_per_gas,
            max_priority_fee=COINS.max_priority_fee_per_gas,
        )
    signature = Signature(y_parity, int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    assert COINS.recover(signature) == ADDRESS
    assert device.traffic[device.traffic.index(452) :] == [452, 26, 27, 26, 27, 26, 27, 26, 27, 59]
    assert device.signatures == 1


# The fleet's door


@pytest.mark.parametrize("transaction", [TRANSFER, COINS, LONG_CALL])
def test_a_transaction_is_shown_as_previewed_and_signed_by_the_treasury(
    device: SoftwareDevice, transaction: UnsignedTransaction
) -> None:
    prompts: list[Prompt] = []
    with open_device(
        device.path, expected_address=ADDRESS, derivation_path=FIRST_PATH, button_callback=prompts.append
    ) as opened:
        signature = opened.sign_transaction(transaction)
        previewed = device_screens(transaction, opened.model, opened.firmware)
    assert transaction.recover(signature) == ADDRESS
    assert ["\n".join(screen) for screen in device.screens] == previewed
    assert [prompt.number for prompt in prompts] == list(range(1, len(previewed) + 1))
    assert device.signatures == 1


def test_long_data_goes_in_chunks_behind_ten_buttons(device: SoftwareDevice) -> None:
    sign(device, LONG_CALL)
    assert len(LONG_CALL.data) == 1_504
    assert device.traffic.count(27) == 10
    assert device.traffic[-5:] == [59, 60, 59, 83, 2]


def test_a_text_is_shown_and_signed(device: SoftwareDevice) -> None:
    text = "APPROVE release 12 of payment 33: 100 USDC"
    with open_device(device.path, expected_address=ADDRESS, derivation_path=FIRST_PATH) as opened:
        raw, signer = opened.sign_message(text)
        assert opened.account_xpub("m/44'/60'/0'") == XPUB
        with pytest.raises(ValueError, match="R6"):
            opened.sign_message("x" * 32)
        with pytest.raises(ValueError, match="three hardened steps"):
            opened.account_xpub("m/44'/60'/0'/0")
    assert (len(raw), signer) == (65, ADDRESS)
    assert "".join(line for screen in device.screens[1:] for line in screen[1:]) == text


def test_the_device_tells_its_facts_and_the_fingerprint_names_the_wallet(device: SoftwareDevice) -> None:
    with open_device(device.path, expected_address=None, derivation_path=FIRST_PATH) as opened:
        assert (opened.address, opened.model, opened.firmware) == (ADDRESS, "T1B1", "1.14.2")
        assert opened.fingerprint == "5c9e228d"
        assert opened.device_id
        assert opened.facts.strict_path_checks
    with pytest.raises(DeviceClosed):
        opened.sign_transaction(TRANSFER)


# Faults: each has its sentence, none hangs, and the next open works


@pytest.mark.simulator_only
@pytest.mark.parametrize(
    ("fault", "kind", "advice", "prompted"),
    sampled(
        [
            (Fault.REJECT, DeviceRejected, "stays open", True),
            (Fault.NEVER_ANSWER, DeviceTimeout, "prompt was cancelled", True),
            (Fault.SILENT, DeviceTimeout, "Try again", False),
            (Fault.PIN_LOCKED, DeviceLocked, "PIN", False),
            (Fault.PASSPHRASE, DevicePassphrase, "passphrase", False),
            (Fault.OTHER_WALLET, WrongWallet, "derivation path", False),
            (Fault.BOOTLOADER, DeviceNotReady, "Restart it without holding its buttons", False),
            (Fault.WIPED, DeviceNotReady, "has no seed", False),
            (Fault.GARBAGE, DeviceGarbled, "cable", False),
            (Fault.WRONG_SIGNATURE, WrongSigner, "thrown away", True),
        ]
    ),
)
def test_a_fault_has_its_sentence_and_the_next_open_works(
    device: SoftwareDevice, fault: Fault, kind: type[DeviceError], advice: str, prompted: bool
) -> None:
    device.fault = fault
    with pytest.raises(kind, match=advice) as caught:
        sign(device)
    assert type(caught.value) is kind
    assert (452 in device.traffic) is prompted
    made = device.signatures
    assert made == (1 if fault is Fault.WRONG_SIGNATURE else 0)
    device.fault = None
    assert TRANSFER.recover(sign(device)) == ADDRESS
    assert device.signatures == made + 1


@pytest.mark.simulator_only
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.SILENT, DeviceTimeout),
        (Fault.PIN_LOCKED, DeviceLocked),
        (Fault.PASSPHRASE, DeviceSessionLost),
        (Fault.OTHER_WALLET, WrongWallet),
        (Fault.GARBAGE, DeviceGarbled),
    ],
)
def test_a_fault_after_opening_is_seen_before_the_first_screen_and_ends_the_session(
    device: SoftwareDevice, fault: Fault, kind: type[DeviceError]
) -> None:
    with open_device(
        device.path,
        expected_address=ADDRESS,
        derivation_path=FIRST_PATH,
        approval_timeout_seconds=QUICK_SECONDS,
    ) as opened:
        device.fault = fault
        with pytest.raises(kind):
            opened.sign_transaction(TRANSFER)
        device.fault = None
        with pytest.raises(DeviceClosed):
            opened.sign_transaction(TRANSFER)
    assert 452 not in device.traffic
    assert TRANSFER.recover(sign(device)) == ADDRESS


@pytest.mark.simulator_only
def test_every_kind_of_garbage_is_called_garbled(device: SoftwareDevice) -> None:
    device.fault = Fault.GARBAGE
    for _ in range(8):
        with pytest.raises(DeviceGarbled):
            sign(device)


@pytest.mark.simulator_only
def test_a_rejection_is_asked_once_and_a_late_press_signs_nothing() -> None:
    with SoftwareDevice(SEED, buttons=Press.ASK) as device:
        with pytest.raises(DeviceTimeout):
            sign(device)
        device.press(confirm=True)  # the person comes back to a screen that has been cleared
        with pytest.raises(DeviceRejected):
            _sign_pressing(device, confirm=False)
        assert device.traffic.count(452) == 2
        assert device.signatures == 0
        second = device.traffic.index(452, device.traffic.index(452) + 1)
        cancels = device.traffic[:second].count(20)
        assert cancels == 3  # one at each open, and one that cleared the unanswered screen
        assert TRANSFER.recover(_sign_pressing(device, confirm=True)) == ADDRESS


def _sign_pressing(device: SoftwareDevice, *, confirm: bool) -> Signature:
    with open_device(
        device.path,
        expected_address=ADDRESS,
        derivation_path=FIRST_PATH,
        button_callback=lambda _: device.press(confirm=confirm),
    ) as opened:
        return opened.sign_transaction(TRANSFER)


@pytest.mark.simulator_only
def test_a_pin_is_typed_as_positions_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with SoftwareDevice(SEED, pin="1793", passphrase_on=True) as device:
        typed: list[str] = []

        def type_pin() -> str:
            typed.append(device.pin_positions("1793"))
            return typed[-1]

        with pytest.raises(DeviceLocked, match="PIN was wrong"):
            _open_with(device, pin=lambda: "1111111")
        with pytest.raises(DeviceLocked, match="positions 1 to 9"):
            _open_with(device, pin=lambda: "0")
        _open_with(device, pin=type_pin, passphrase="a hidden wallet")
        assert typed
        assert not any(typed[0] in record.getMessage() for record in caplog.records)
        assert "a hidden wallet" not in caplog.text
        assert not logging.getLogger("trezorlib.protocol_v1").isEnabledFor(logging.DEBUG)


def _open_with(device: SoftwareDevice, *, pin: Callable[[], str] | None = None, passphrase: str | None = "") -> str:
    with open_device(
        device.path,
        expected_address=None,
        derivation_path=FIRST_PATH,
        pin_callback=pin,
        passphrase=passphrase,
    ) as opened:
        return opened.address


@pytest.mark.simulator_only
def test_a_passphrase_opens_its_own_wallet_and_a_wrong_one_is_told_apart(device: SoftwareDevice) -> None:
    with pytest.raises(DevicePassphrase, match="has them off"):
        _open_with(device, passphrase="secret")
    device.fault = Fault.PASSPHRASE
    assert _open_with(device, passphrase="") == ADDRESS
    hidden = _open_with(device, passphrase="secret")
    assert hidden != ADDRESS
    with (
        pytest.raises(WrongWallet),
        open_device(device.path, expected_address=hidden, derivation_path=FIRST_PATH, passphrase=lambda: "secrte"),
    ):
        pass


@pytest.mark.simulator_only
def test_another_client_on_the_device_cannot_swap_the_wallet_under_a_signer() -> None:
    with (
        SoftwareDevice(SEED, passphrase_on=True) as device,
        open_device(device.path, expected_address=ADDRESS, derivation_path=FIRST_PATH, passphrase="") as opened,
        library.get_default_client("intruder", device.path) as intruder,  # a program that knows no lock
    ):
        intruder.get_session("beta")
        assert TRANSFER.recover(opened.sign_transaction(TRANSFER)) == ADDRESS


def test_an_expected_address_without_its_checksum_is_a_clear_mistake(device: SoftwareDevice) -> None:
    with (
        pytest.raises(ValueError, match="expected_address"),
        open_device(device.path, expected_address=ADDRESS.lower(), derivation_path=FIRST_PATH),
    ):
        pass
    assert device.traffic == []


def test_one_signer_at_a_time(device: SoftwareDevice) -> None:
    with (
        open_device(device.path, expected_address=ADDRESS, derivation_path=FIRST_PATH),
        pytest.raises(DeviceBusy, match="Another signer"),
    ):
        sign(device)
    assert TRANSFER.recover(sign(device)) == ADDRESS


def test_a_path_outside_the_strict_check_is_refused(device: SoftwareDevice) -> None:
    for path in ("m/44'/60'/0'/0/0/0", "m/44'/0'/0'/0/0", "m/44'/60'/101'/0/0", "m/44'/60'/0'/2/0"):
        with (
            pytest.raises(DeviceRefused, match="Forbidden key path"),
            open_device(device.path, expected_address=None, derivation_path=path),
        ):
            pass
    for path in ("m/44'/60'/0'/1/0", "m/44'/60'/5'/0/7", "m/44'/1'/0'/0/0"):
        with open_device(device.path, expected_address=None, derivation_path=path) as opened:
            assert opened.address != ADDRESS


def test_a_path_without_a_device_is_not_found() -> None:
    with SoftwareDevice(SEED) as device:
        path = device.path
    for wrong in (path, "udp:203.0.113.7:21324", "udp:localhost:21324", "serial:1", ""):
        with (
            pytest.raises(DeviceNotFound),
            open_device(wrong, expected_address=None, derivation_path=FIRST_PATH),
        ):
            pass


def test_a_device_that_goes_away_is_told_and_the_callers_own_errors_are_not_renamed() -> None:
    device = SoftwareDevice(SEED)
    device.start()
    with open_device(
        device.path,
        expected_address=ADDRESS,
        derivation_path=FIRST_PATH,
        approval_timeout_seconds=QUICK_SECONDS,
    ) as opened:
        device.stop()
        with pytest.raises((DeviceDisconnected, DeviceTimeout)):
            opened.sign_transaction(TRANSFER)

    def fail(_: Prompt) -> None:
        raise LookupError("the caller's own")

    with SoftwareDevice(SEED) as other:
        with (
            open_device(
                other.path, expected_address=ADDRESS, derivation_path=FIRST_PATH, button_callback=fail
            ) as opened,
            pytest.raises(LookupError, match="the caller's own"),
        ):
            opened.sign_transaction(TRANSFER)
        assert other.signatures == 0
        assert TRANSFER.recover(sign(other)) == ADDRESS


class _Flood(UdpTransport):
    """A device that never stops talking."""

    def read_chunk(self, *, timeout: float | None = None) -> bytes:
        return bytes(64)


def test_packets_that_never_stop_do_not_move_the_deadline() -> None:
    transport = DeadlineTransport(_Flood("127.0.0.1:9"))
    transport.allow(60)
    assert transport.read_chunk() == bytes(64)
    transport.allow(0)
    with pytest.raises(Timeout):
        transport.read_chunk()


def test_an_unknown_error_is_still_a_sentence() -> None:
    assert "RuntimeError" in str(explain(RuntimeError("secret text")))
    assert "secret text" not in str(explain(RuntimeError("secret text")))
