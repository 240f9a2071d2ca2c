"""What can go wrong between a signer and a device, each as a class of ours and a sentence that says what
to do.

Nothing here retries. After any of these the device has been dropped and must be opened again; `reason` is the
short name that is stored with an instruction, `may_try_again` says whether asking the same person again is
sensible without changing anything (never after a rejection: a person said no).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from trezorlib.exceptions import TrezorFailure


class DeviceError(Exception):
    """A device could not do what was asked. `str()` is a sentence for the signer and the next step."""

    reason: ClassVar[str] = "device_error"
    next_step: ClassVar[str] = "Unplug the device, plug it in and open it again."
    may_try_again: ClassVar[bool] = True

    def __init__(self, what: str, next_step: str | None = None) -> None:
        self.what = what
        self.advice = next_step or self.next_step
        super().__init__(f"{what} {self.advice}")


class DeviceNotFound(DeviceError):
    reason = "device_not_found"
    next_step = "Plug it in, check the cable and the udev rules, and name its full path, such as webusb:001:4."


class DeviceAmbiguous(DeviceError):
    reason = "device_ambiguous"
    next_step = "Name the wallet's fingerprint (TREZOR_FINGERPRINT or trust.toml), or unplug all but one."


class DeviceBusy(DeviceError):
    reason = "device_busy"
    next_step = "Close the other program or signer that uses it, then try again."


class DeviceTimeout(DeviceError):
    reason = "device_timeout"
    next_step = "The prompt was cancelled and no signature came back. Try again when someone is there."


class DeviceRejected(DeviceError):
    reason = "device_rejected"
    next_step = "The instruction stays open. Ask why before it is offered to a signer again."
    may_try_again = False


class DeviceLocked(DeviceError):
    reason = "device_locked"
    next_step = "Unlock it with its PIN. Stop after a few wrong tries: it erases itself after 16."


class DevicePassphrase(DeviceError):
    reason = "device_passphrase"
    next_step = "Open it with the passphrase of the treasury wallet, or with an empty one for the standard wallet."


class DeviceSessionLost(DeviceError):
    reason = "device_session_lost"
    next_step = "Another program may have used the device. Close it and open the device again."


class WrongWallet(DeviceError):
    reason = "wrong_wallet"
    next_step = "Nothing was shown or signed. Check which device, passphrase and derivation path are meant."
    may_try_again = False


class WrongSigner(DeviceError):
    reason = "wrong_signer"
    next_step = "The signature was thrown away. Take this device out of use and tell the custody team."
    may_try_again = False


class DeviceGarbled(DeviceError):
    reason = "device_garbled"
    next_step = "Use another cable or port, and check that no other program talks to the device."


class DeviceRefused(DeviceError):
    reason = "device_refused"
    next_step = "Check the derivation path and the transaction; the device's safety checks stay strict."
    may_try_again = False


class DeviceNotReady(DeviceError):
    reason = "device_not_ready"
    next_step = "Finish its setup in the maker's own program first."
    may_try_again = False


class DeviceOutdated(DeviceError):
    reason = "device_outdated"
    next_step = "Update its firmware in the maker's own program, then check the treasury address again."
    may_try_again = False


class DeviceUnsupported(DeviceError):
    reason = "device_unsupported"
    next_step = "Use a model and firmware that can sign this."
    may_try_again = False


class DeviceNotPaired(DeviceError):
    reason = "device_not_paired"
    next_step = "Pair it once with this computer and keep the credential."
    may_try_again = False


class DeviceDisconnected(DeviceError):
    reason = "device_disconnected"


class DeviceClosed(DeviceError):
    reason = "device_closed"
    next_step = "Open it again; an opened device is never used after an error."


def explain(error: BaseException) -> DeviceError:
    """Our error for whatever the `trezor` library, its transports or the system raised.

    An error of ours is returned as it is. What has the shape of a broken answer becomes DeviceGarbled,
    anything else unknown a plain DeviceError with the error's type; a message's content is never repeated.
    """
    from trezorlib.exceptions import TrezorFailure

    if isinstance(error, DeviceError):
        return error
    if isinstance(error, TrezorFailure):
        return _explain_failure(error)
    if isinstance(error, OSError) and error.errno is None:  # the library's reader at the end of a short answer
        return DeviceGarbled("The device's answer could not be read.")
    for kinds, ours, what in _known_errors():
        if isinstance(error, kinds):
            return ours(what)
    return DeviceError(f"The device failed in a way that is not known here ({type(error).__name__}).")


# What the library lets through when an answer is damaged: an unknown wire type is a KeyError, a short header
# a struct.error, a broken field a ValueError or EOFError, an answer out of place an AssertionError.
_BROKEN_ANSWERS: Final = (
    KeyError,
    ValueError,
    EOFError,
    AssertionError,
    TypeError,
    OverflowError,
    struct.error,
)


def _known_errors() -> list[tuple[type[Exception] | tuple[type[Exception], ...], type[DeviceError], str]]:
    """Library errors, narrowest first, each with ours and what happened."""
    from trezorlib import exceptions as library
    from trezorlib import transport

    broken = (
        *_BROKEN_ANSWERS,
        library.ProtocolError,
        library.UnexpectedMessageError,
        library.StateMismatchError,
    )
    return [
        (transport.Timeout, DeviceTimeout, "Nobody and nothing answered at the device in time."),
        (transport.DeviceIsBusy, DeviceBusy, "Another program holds the device."),
        (transport.TransportException, DeviceNotFound, "No device answers at this path."),
        (library.Cancelled, DeviceRejected, "The request was rejected on the device."),
        (library.PinException, DeviceLocked, "The PIN was wrong."),
        (library.DeviceLockedError, DeviceLocked, "The device is locked."),
        (library.OutdatedFirmwareError, DeviceOutdated, "The firmware is too old for this library."),
        (library.MissingCapability, DeviceUnsupported, "This firmware has no Ethereum in it."),
        (library.PassphraseError, DevicePassphrase, "A passphrase was given, but the device has them off."),
        (library.InvalidSessionError, DeviceSessionLost, "The device forgot the session it was opened with."),
        (library.NotPairedError, DeviceNotPaired, "The device does not know this computer."),
        (broken, DeviceGarbled, "The device's answer could not be read."),
        (OSError, DeviceDisconnected, "The connection to the device could not be opened."),
    ]


def _explain_failure(error: TrezorFailure) -> DeviceError:
    from trezorlib.messages import FailureType

    said = f" It says: {error.message}." if error.message else ""
    match error.code:
        case FailureType.PinInvalid | FailureType.PinExpected | FailureType.PinMismatch:
            return DeviceLocked("The PIN was wrong.")
        case FailureType.Busy | FailureType.InProgress:
            return DeviceBusy("The device is busy with something else.")
        case FailureType.NotInitialized:
            return DeviceNotReady("The device has no seed.")
        case FailureType.UnexpectedMessage:
            return DeviceUnsupported(f"The device does not know this request.{said}")
        case FailureType.DataError:
            return DeviceRefused(f"The device refused the request by its own safety checks.{said}")
        case _:
            return DeviceRefused(f"The device failed.{said}")
