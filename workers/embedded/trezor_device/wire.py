"""Codec v1, the framing of Trezor devices: 64-byte packets, `?##` + type + length first, `?` after."""

from __future__ import annotations

import struct
from typing import Final

PACKET_BYTES: Final = 64
PING: Final = b"PINGPING"
PONG: Final = b"PONGPONG"
MAX_REQUEST_BYTES: Final = 16_384  # the device's own decode buffer is smaller; no request of the library is larger
_HEADER: Final = struct.Struct(">HL")
_FIRST: Final = b"?##"
_NEXT: Final = b"?"


class Assembler:
    """Puts packets together into messages; a damaged one is dropped, as a device drops it."""

    def __init__(self) -> None:
        self._kind = 0
        self._length = 0
        self._body: bytearray | None = None

    def feed(self, packet: bytes) -> tuple[int, bytes] | None:
        """Take one packet; returns (wire type, protobuf bytes) when it completes a message."""
        if len(packet) != PACKET_BYTES:
            return None
        if packet.startswith(_FIRST):
            self._kind, self._length = _HEADER.unpack_from(packet, len(_FIRST))
            self._body = bytearray(packet[len(_FIRST) + _HEADER.size :])
            if self._length > MAX_REQUEST_BYTES:
                self._body = None
        elif packet.startswith(_NEXT) and self._body is not None:
            self._body += packet[len(_NEXT) :]
        if self._body is None or len(self._body) < self._length:
            return None
        body, self._body = bytes(self._body[: self._length]), None
        return self._kind, body


def split(kind: int, body: bytes) -> list[bytes]:
    """The packets of one message."""
    stream = b"##" + _HEADER.pack(kind, len(body)) + body
    step = PACKET_BYTES - len(_NEXT)
    return [(_NEXT + stream[start : start + step]).ljust(PACKET_BYTES, b"\0") for start in range(0, len(stream), step)]
