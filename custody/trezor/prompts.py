"""What a device asks of a person while it works, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from custody.trezor.sentences import DeviceLocked, explain

if TYPE_CHECKING:
    from trezorlib import messages

    from custody.trezor.transport import DeadlineTransport

ANSWER_TIMEOUT_SECONDS: Final = 10.0  # an answer that needs no person takes under 2 s on the slowest model
MAX_PIN_DIGITS: Final = 50  # the device's own limit


@dataclass(frozen=True, slots=True)
class Prompt:
    """One screen that waits for a person: its number in this operation from 1, the kind, a name on newer
    models.
    """

    number: int
    code: int
    name: str | None


class Prompts:
    """Passes the library's callbacks on, counts screens, and gives a person the approval deadline."""

    def __init__(
        self,
        transport: DeadlineTransport,
        approval_timeout_seconds: float,
        pin_callback: Callable[[], str] | None,
        button_callback: Callable[[Prompt], None] | None,
    ) -> None:
        self._transport = transport
        self._approval_seconds = approval_timeout_seconds
        self._pin_callback = pin_callback
        self._button_callback = button_callback
        self._shown = 0
        self._locked: str | None = None
        self._callback_error: Exception | None = None

    def begin(self) -> None:
        """Start an operation: the device itself answers quickly, only a person gets the long deadline."""
        self._shown = 0
        self._locked = None
        self._callback_error = None
        self._transport.allow(min(ANSWER_TIMEOUT_SECONDS, self._approval_seconds))

    def button(self, request: messages.ButtonRequest) -> None:
        self._shown += 1
        if self._shown == 1:  # one deadline for all screens of an operation
            self._transport.allow(self._approval_seconds)
        if self._button_callback is not None:
            try:
                self._button_callback(Prompt(self._shown, int(request.code or 0), request.name))
            except Exception as error:
                self._callback_error = error
                raise

    def pin(self, _request: messages.PinMatrixRequest) -> str:
        from trezorlib.exceptions import Cancelled

        # Cancelled makes the library clear the PIN prompt on the device.
        if self._pin_callback is None:
            self._locked = "The device is locked and asks for its PIN."
            raise Cancelled
        try:
            positions = self._pin_callback()
        except Exception as error:
            self._callback_error = error
            raise Cancelled from error
        if not 1 <= len(positions) <= MAX_PIN_DIGITS or not set(positions) <= set("123456789"):
            self._locked = "The PIN was not entered as positions 1 to 9 of the grid on the device."
            raise Cancelled
        self._transport.allow(self._approval_seconds)  # after wrong tries a device waits before it checks
        return positions

    def explain(self, error: Exception) -> Exception:
        """The error to raise: a caller's own from its callback unchanged, any other as one of ours."""
        if self._callback_error is not None:
            return self._callback_error
        if self._locked is not None:
            return DeviceLocked(self._locked)
        return explain(error)
