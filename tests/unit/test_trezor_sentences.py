"""Every error that the trezor library, its transports and the system can raise becomes a sentence with a next step."""

import inspect
import struct
from types import ModuleType

import pytest
from trezorlib import exceptions, messages, transport
from trezorlib.messages import FailureType
from trezorlib.thp import exceptions as thp
from trezorlib.transport import bridge

from custody.trezor import sentences
from custody.trezor.sentences import (
    DeviceBusy,
    DeviceDisconnected,
    DeviceError,
    DeviceGarbled,
    DeviceLocked,
    DeviceNotFound,
    DeviceNotPaired,
    DeviceNotReady,
    DeviceOutdated,
    DevicePassphrase,
    DeviceRefused,
    DeviceRejected,
    DeviceSessionLost,
    DeviceTimeout,
    DeviceUnsupported,
    explain,
)

SECRET = "what a message held"

RAISED: dict[type[BaseException], tuple[BaseException, type[DeviceError]]] = {
    exceptions.TrezorException: (exceptions.TrezorException(SECRET), DeviceError),
    exceptions.PinException: (exceptions.PinException(SECRET), DeviceLocked),
    exceptions.Cancelled: (exceptions.Cancelled(), DeviceRejected),
    exceptions.DeviceLockedError: (exceptions.DeviceLockedError(), DeviceLocked),
    exceptions.OutdatedFirmwareError: (exceptions.OutdatedFirmwareError(), DeviceOutdated),
    exceptions.UnexpectedMessageError: (
        exceptions.UnexpectedMessageError(messages.Success, messages.Failure()),
        DeviceGarbled,
    ),
    exceptions.InvalidSessionError: (exceptions.InvalidSessionError(b"id"), DeviceSessionLost),
    exceptions.ProtocolError: (exceptions.ProtocolError(SECRET), DeviceGarbled),
    exceptions.PassphraseError: (exceptions.PassphraseError(SECRET), DevicePassphrase),
    exceptions.NotPairedError: (exceptions.NotPairedError(), DeviceNotPaired),
    exceptions.StateMismatchError: (exceptions.StateMismatchError(SECRET), DeviceGarbled),
    exceptions.MissingCapability: (exceptions.MissingCapability(SECRET), DeviceUnsupported),
    exceptions.TrezorFailure: (exceptions.TrezorFailure(messages.Failure()), DeviceRefused),
    transport.TransportException: (transport.TransportException(SECRET), DeviceNotFound),
    transport.DeviceIsBusy: (transport.DeviceIsBusy(SECRET), DeviceBusy),
    transport.Timeout: (transport.Timeout(SECRET), DeviceTimeout),
    thp.ThpError: (thp.ThpError(4), DeviceGarbled),
}


def _raised_by(module: ModuleType) -> list[type[BaseException]]:
    return [each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, BaseException)]


def test_no_error_of_the_library_is_forgotten() -> None:
    found = {each for module in (exceptions, transport, thp) for each in _raised_by(module)}
    assert found == set(RAISED)


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_each_error_of_the_library_is_a_sentence_and_repeats_no_content(kind: type[BaseException]) -> None:
    error, expected = RAISED[kind]
    ours = explain(error)
    assert type(ours) is expected
    assert ours.next_step in str(ours)
    assert SECRET not in str(ours)


FAILURES = {
    FailureType.UnexpectedMessage: DeviceUnsupported,
    FailureType.ButtonExpected: DeviceRefused,
    FailureType.DataError: DeviceRefused,
    FailureType.ActionCancelled: DeviceRejected,
    FailureType.PinExpected: DeviceLocked,
    FailureType.PinCancelled: DeviceRejected,
    FailureType.PinInvalid: DeviceLocked,
    FailureType.InvalidSignature: DeviceRefused,
    FailureType.ProcessError: DeviceError,
    FailureType.NotEnoughFunds: DeviceRefused,
    FailureType.NotInitialized: DeviceNotReady,
    FailureType.PinMismatch: DeviceLocked,
    FailureType.WipeCodeMismatch: DeviceRefused,
    FailureType.InvalidSession: DeviceSessionLost,
    FailureType.Busy: DeviceBusy,
    FailureType.ThpUnallocatedSession: DeviceSessionLost,
    FailureType.InvalidProtocol: DeviceRefused,
    FailureType.InProgress: DeviceBusy,
    FailureType.FirmwareError: DeviceError,
}


def test_no_failure_of_a_device_is_forgotten() -> None:
    assert set(FailureType) == set(FAILURES)


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_each_failure_of_a_device_is_a_sentence(code: FailureType) -> None:
    ours = explain(exceptions.TrezorFailure(messages.Failure(code=code, message="its words")))
    assert type(ours) is FAILURES[code]
    assert str(ours).endswith(ours.advice)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(1, DeviceBusy), (2, DeviceSessionLost), (3, DeviceGarbled), (5, DeviceLocked), (99, DeviceGarbled)],
)
def test_each_error_of_the_encrypted_channel_is_a_sentence(code: int, expected: type[DeviceError]) -> None:
    assert type(explain(thp.ThpError(code))) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, SECRET), DeviceDisconnected),  # a dead device over UDP, hazard 5
        (OSError(), DeviceGarbled),  # the reader at the end of a short answer
        (KeyError(SECRET), DeviceGarbled),  # an unknown wire type, hazard 8
        (ValueError(SECRET), DeviceGarbled),  # mixed paths, hazard 7
        (struct.error(SECRET), DeviceGarbled),
        (EOFError(SECRET), DeviceGarbled),
        (AssertionError(SECRET), DeviceGarbled),
        (RuntimeError(SECRET), DeviceError),
        (bridge.BridgeException("/listen", 400, SECRET), DeviceNotFound),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.__name__,
)
def test_each_other_error_is_a_sentence(error: BaseException, expected: type[DeviceError]) -> None:
    ours = explain(error)
    assert type(ours) is expected
    assert SECRET not in str(ours)


def test_each_of_ours_says_what_to_do_and_has_a_reason_of_its_own() -> None:
    ours = [
        each
        for _, each in inspect.getmembers(sentences, inspect.isclass)
        if issubclass(each, DeviceError) and each is not DeviceError
    ]
    assert len({each.reason for each in ours}) == len(ours)
    assert all(each.next_step.endswith(".") for each in ours)
    assert not DeviceRejected.may_try_again
    first = ours[0]("It happened.")
    assert explain(first) is first
