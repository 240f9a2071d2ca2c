"""The UDP side of the software device: one thread, one socket on loopback, packets in and out."""

from __future__ import annotations

import secrets
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self

import structlog
from trezorlib.mapping import DEFAULT_MAPPING
from trezorlib.messages import Cancel, DebugButton, DebugLinkDecision, Failure, FailureType, Features
from trezorlib.protobuf import MessageType

from workers.embedded.trezor_device.faults import Fault, Press
from workers.embedded.trezor_device.firmware import Firmware
from workers.embedded.trezor_device.identity import Model
from workers.embedded.trezor_device.screens import Screen
from workers.embedded.trezor_device.wire import PACKET_BYTES, PING, PONG, Assembler, split

log = structlog.get_logger(__name__)

LOOPBACK: Final = "127.0.0.1"
STOP_TIMEOUT_SECONDS: Final = 5.0  # the thread only ever waits for its sockets, so it ends at once
_YES, _NO, _STOP = b"y", b"n", b"q"
_UNKNOWN_TYPE: Final = 0xFFFE


class SoftwareDevice:
    """A software Trezor at `path`, running in a thread of its own while used as a context manager.

    `seed` is a BIP-39 mnemonic; port 0 takes a free one. `fault` can be changed at any time and binds from
    the next message. Raises ValueError for a host other than 127.0.0.1 or a seed that is no mnemonic.
    """

    def __init__(
        self,
        seed: str,
        *,
        fault: Fault | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        pin: str | None = None,
        passphrase_on: bool = False,
        buttons: Press = Press.YES,
        on_screen: Callable[[Screen], None] | None = None,
        model: Model = Model.ONE,
        debug: bool = False,
    ) -> None:
        if host != LOOPBACK:
            raise ValueError(f"host {host!r}: the software device listens on {LOOPBACK} only, it holds a seed (R17)")
        self._firmware = Firmware(
            seed,
            pin=pin,
            passphrase_on=passphrase_on,
            buttons=buttons,
            fault=fault,
            on_screen=on_screen or _ignore,
            model=model,
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._socket.settimeout(0)
        self._debug = _debug_socket(host) if debug else None
        self._wake, self._woken = socket.socketpair()
        self._assembler = Assembler()
        self._host: tuple[str, int] | None = None
        self._garbage_count = 0
        self._prompt_open = threading.Event()
        self._thread: threading.Thread | None = None
        self.port: int = self._socket.getsockname()[1]

    @property
    def path(self) -> str:
        """The path by which the trezor library finds this device."""
        return f"udp:{LOOPBACK}:{self.port}"

    @property
    def debug_path(self) -> str:
        """Where presses are taken as messages, as an emulator's debug link does. Raises ValueError without ``debug``."""
        if self._debug is None:
            raise ValueError("this device has no debug link: make it with debug=True")
        return f"udp:{LOOPBACK}:{self._debug.getsockname()[1]}"

    @property
    def fault(self) -> Fault | None:
        """What currently goes wrong; None is an honest device."""
        return self._firmware.fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._firmware.fault = fault

    @property
    def signatures(self) -> int:
        """How many signatures the device has made."""
        return self._firmware.signatures

    @property
    def screens(self) -> list[Screen]:
        """Every screen shown so far, in order."""
        return list(self._firmware.screens)

    @property
    def traffic(self) -> list[int]:
        """The wire types of all messages so far, both directions, in order."""
        return list(self._firmware.traffic)

    def pin_positions(self, pin: str) -> str:
        """What a person types on the host for this PIN, looking at the grid now on the device's screen."""
        return "".join(str(self._firmware.pin_layout.index(digit) + 1) for digit in pin)

    def press(self, *, confirm: bool) -> None:
        """Press a button, as a person would when `buttons` is ASK; ignored when no prompt is open."""
        self._wake.send(_YES if confirm else _NO)

    def wait_for_prompt(self, timeout_seconds: float) -> bool:
        """Wait until a prompt waits for a person; False when none came in time."""
        return self._prompt_open.wait(timeout_seconds)

    def start(self) -> None:
        """Serve in a daemon thread."""
        self._thread = threading.Thread(target=self.serve, name="software-device", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End serving and close the port. A device that was never started is closed too."""
        if self._thread is not None:
            self._wake.send(_STOP)
            self._thread.join(STOP_TIMEOUT_SECONDS)
            self._thread = None
        for each in (self._socket, self._wake, self._woken, self._debug):
            if each is not None:
                each.close()

    def request_stop(self) -> None:
        """Make `serve` return; safe in a signal handler."""
        self._wake.send(_STOP)

    def serve(self) -> None:
        """Answer packets until `request_stop` or `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            if self._debug is not None:
                selector.register(self._debug, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        pressed = self._woken.recv(1)
                        if pressed == _STOP:
                            return
                        self._send(self._firmware.press(confirm=pressed == _YES))
                    elif key.fileobj is self._debug:
                        self._take_decision()
                    else:
                        self._take_packet()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_packet(self) -> None:
        try:
            packet, sender = self._socket.recvfrom(PACKET_BYTES + 1)
        except OSError:
            return
        if packet == PING:
            self._send_packet(PONG, sender)
            return
        message = self._assembler.feed(packet)
        if message is None:
            return
        self._host = sender  # as on the real one, whoever spoke last gets the answer
        kind, body = message
        if self.fault is Fault.SILENT:
            return
        try:
            answers = self._firmware.receive(kind, body)
        except Exception as error:
            log.exception("software_device_failed", wire_type=kind)
            answers = [Failure(code=FailureType.FirmwareError, message=type(error).__name__)]
        if self.fault is Fault.GARBAGE and kind != Cancel.MESSAGE_WIRE_TYPE:
            self._send_garbage()
            return
        self._send(answers)

    def _take_decision(self) -> None:
        assert self._debug is not None
        with suppress(OSError):
            packet = self._debug.recv(PACKET_BYTES + 1)
            message = Assembler().feed(packet)
            if message is not None and message[0] == DebugLinkDecision.MESSAGE_WIRE_TYPE:
                decision = DEFAULT_MAPPING.decode(*message)
                self._send(self._firmware.press(confirm=getattr(decision, "button", None) == DebugButton.YES))

    def _send(self, answers: Sequence[MessageType]) -> None:
        self._note_prompt()  # before the host can react to an answer
        if self._host is None:
            return
        for answer in answers:
            for packet in split(*DEFAULT_MAPPING.encode(answer)):
                self._send_packet(packet, self._host)

    def _send_garbage(self) -> None:
        """Four kinds of damage in turn: noise, an unknown type, a broken body, an absurd length."""
        assert self._host is not None
        kinds = (
            b"\xff" + secrets.token_bytes(PACKET_BYTES - 1),
            *split(_UNKNOWN_TYPE, secrets.token_bytes(8)),
            *split(int(Features.MESSAGE_WIRE_TYPE or 0), b"\xff" * 24),
            (b"?##" + struct.pack(">HL", 17, 0xFFFFFFFF)).ljust(PACKET_BYTES, b"\x01"),
        )
        self._send_packet(kinds[self._garbage_count % len(kinds)], self._host)
        self._garbage_count += 1

    def _send_packet(self, packet: bytes, to: tuple[str, int]) -> None:
        with suppress(OSError):  # a host that has gone is no concern of the device
            self._socket.sendto(packet, to)

    def _note_prompt(self) -> None:
        if self._firmware.awaits_press:
            self._prompt_open.set()
        else:
            self._prompt_open.clear()


def _debug_socket(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    made.settimeout(0)
    return made


def _ignore(_screen: Screen) -> None:
    """Nobody watches the screen."""
