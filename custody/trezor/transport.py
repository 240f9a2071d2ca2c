"""The library's transports with a deadline, a size limit and one lock a device around them.

Imports trezorlib, so it is imported only by code that is about to open a device.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trezorlib.exceptions import ProtocolError
from trezorlib.transport import Timeout, Transport, TransportException, all_transports, get_transport

from custody.trezor.sentences import (
    DeviceAmbiguous,
    DeviceBusy,
    DeviceDisconnected,
    DeviceError,
    DeviceNotFound,
)

MAX_ANSWER_BYTES: Final = 65_536  # the longest honest answer is under 2 KiB; a lying length may not fill memory
_FIRST_PACKET: Final = b"?##"
_LENGTH_OFFSET: Final = 5
UDP_PINGS: Final = 30
"""The library gives a ping a tenth of a second and asks once; a machine that starts a fleet answers later. 3 seconds in all."""

_LOOPBACK: Final = "127.0.0.1"  # its one name, so that a device has one path and one lock


class DeadlineTransport(Transport):
    """Passes packets through to a real transport and never waits past its deadline.

    The library's reads wait for ever by default and its timeout is a process-wide private value that restarts
    with each packet; here the deadline belongs to one device and covers a whole operation, however many
    packets arrive. Past it, reads raise the library's own Timeout.
    """

    PATH_PREFIX = "deadline"
    ENABLED = False

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        # The library reads it from the instance; 64-byte packets for USB and UDP, none for the bridge.
        self.CHUNK_SIZE = inner.CHUNK_SIZE  # pyright: ignore[reportAttributeAccessIssue]
        self._deadline = time.monotonic()

    def allow(self, seconds: float) -> None:
        """Set the deadline to this many seconds from now."""
        self._deadline = time.monotonic() + seconds

    def get_path(self) -> str:
        return self.inner.get_path()

    def is_open(self) -> bool:
        return self.inner.is_open()

    def is_ready(self) -> bool:
        return self.inner.is_ready()

    def _open(self) -> None:
        self.inner.open()

    def _close(self) -> None:
        self.inner.close()

    def write_chunk(self, chunk: bytes, /) -> None:
        with _as_disconnected():
            self.inner.write_chunk(chunk)

    def read_chunk(self, *, timeout: float | None = None) -> bytes:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise Timeout("the deadline of this operation has passed")
        with _as_disconnected():
            chunk = self.inner.read_chunk(timeout=remaining if timeout is None else min(timeout, remaining))
        if chunk.startswith(_FIRST_PACKET) and len(chunk) >= _LENGTH_OFFSET + 4:
            (length,) = struct.unpack_from(">L", chunk, _LENGTH_OFFSET)
            if length > MAX_ANSWER_BYTES:
                raise ProtocolError(f"an answer of {length} bytes was announced, limit {MAX_ANSWER_BYTES}")
        return chunk


@contextmanager
def _as_disconnected() -> Generator[None]:
    """Name what a cable does: sockets raise OSError, libusb its own errors, none of them the library's."""
    try:
        yield
    except TransportException:
        raise
    except Exception as error:
        raise DeviceDisconnected("The connection to the device broke.") from error


def find_transports(path: str) -> list[Transport]:
    """The devices at a path: full (`webusb:001:4`, `udp:127.0.0.1:21324`) or a kind (`webusb`), several with commas.

    Which one of several is meant is for the caller to say, by fingerprint: never "first found" (R23, R24). Raises
    DeviceNotFound. `udp:` is for the software device and emulators, so only on loopback (R17); that the chain is a
    development chain is the caller's to check.
    """
    return [transport for each in path.split(",") for transport in _transports(each.strip())]


def ambiguous(found: list[Transport]) -> DeviceAmbiguous:
    """The error for several devices where one is meant."""
    paths = ", ".join(sorted(device.get_path() for device in found))
    return DeviceAmbiguous(f"{len(found)} devices are attached: {paths}.")


def _transports(path: str) -> list[Transport]:
    kind, _, rest = path.partition(":")
    if kind == "udp" and rest.partition(":")[0] != _LOOPBACK:
        raise DeviceNotFound(
            f"Device path {path!r} does not begin with udp:127.0.0.1.",
            "Name a udp path as udp:127.0.0.1:PORT.",
        )
    kinds = {transport.PATH_PREFIX: transport for transport in all_transports()}
    if kind not in kinds:
        raise DeviceNotFound(
            f"Device path {path!r} names no kind of connection.", f"Begin it with one of {', '.join(kinds)}."
        )
    if rest:
        # A software device shares this machine's processors; where nothing listens, each ping is refused at once.
        for left in reversed(range(UDP_PINGS if kind == "udp" else 1)):
            try:
                return [get_transport(path, prefix_search=False)]
            except TransportException as error:
                if not left:
                    raise DeviceNotFound(f"No device answers at {path}.") from error
    found = list(kinds[kind].enumerate())
    if not found:
        raise DeviceNotFound(f"No device is attached by {kind}.")
    return found


@contextmanager
def exclusive_lock(path: str, lock_folder: Path | None) -> Generator[None]:
    """Hold the lock file of one device for the time of a `with`; raises DeviceBusy at once when it is held.

    Two clients on one device can be given each other's wallet (the second one's passphrase answers the first
    one's requests), so every open, sign and close happens under this lock. It is an flock: a dead process
    leaves nothing behind.
    """
    folder = lock_folder or Path(tempfile.gettempdir()) / f"amanat-trezor-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.lstat()
    if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise DeviceError(
            f"The lock folder {folder} is not a folder that only this user can write.",
            "Remove it or name another.",
        )
    name = hashlib.sha256(path.encode()).hexdigest()[:16]
    handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeviceBusy("Another signer on this machine has the device open.") from error
        yield
    finally:
        os.close(handle)
