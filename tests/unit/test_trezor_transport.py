"""Finding a device: a software device on a busy machine answers late, and a port where nobody listens at once."""

import socket
from threading import Thread

import pytest

from custody.trezor.sentences import DeviceNotFound
from custody.trezor.transport import UDP_PINGS, find_transports

UNANSWERED = 3


def test_a_software_device_that_lets_pings_pass_is_found_and_silence_is_not_waited_for_without_end() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        path = f"udp:127.0.0.1:{listening.getsockname()[1]}"
        heard: list[bytes] = []

        def answer() -> None:
            for number in range(UNANSWERED + 1):
                message, sender = listening.recvfrom(64)
                heard.append(message)
                if number == UNANSWERED:
                    listening.sendto(b"PONGPONG", sender)

        answering = Thread(target=answer)
        answering.start()
        [found] = find_transports(path)
        answering.join(timeout=10)
        assert found.get_path() == path
        assert heard == [b"PINGPING"] * (UNANSWERED + 1)
        # It listens still, and says nothing any more.
        with pytest.raises(DeviceNotFound, match=path):
            find_transports(path)
        listening.setblocking(False)
        assert sum(1 for _ in iter(lambda: received(listening), b"")) == UDP_PINGS


def received(listening: socket.socket) -> bytes:
    try:
        return listening.recv(64)
    except BlockingIOError:
        return b""
