"""A TCP door in front of MongoDB that a test can shut: the server itself is shared and stays up."""

import contextlib
import selectors
import socket
import threading
from urllib.parse import urlsplit

_CHUNK = 65_536


class MongoProxy:
    """Forwards connections until ``shut``; ``open`` lets them through again on the same port."""

    def __init__(self, mongo_url: str) -> None:
        parts = urlsplit(mongo_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 27017)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self._through = threading.Event()
        self._ended = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.open()

    @property
    def url(self) -> str:
        # directConnection: the replica set would name its own address otherwise
        return f"mongodb://127.0.0.1:{self._port}/?directConnection=true"

    def open(self) -> None:
        self._through.set()

    def shut(self) -> None:
        """Cut every connection and take no new one through."""
        self._through.clear()
        self._cut()

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join()

    def _cut(self) -> None:
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if not self._through.is_set():
                inner.close()
                continue
            outer = socket.create_connection(self._target)
            with self._lock:
                self._pairs.append((inner, outer))
            thread = threading.Thread(target=self._forward, args=(inner, outer))
            self._threads.append(thread)
            thread.start()

    def _forward(self, inner: socket.socket, outer: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, inner, outer, contextlib.suppress(OSError):
            selector.register(inner, selectors.EVENT_READ, outer)
            selector.register(outer, selectors.EVENT_READ, inner)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # pyright: ignore[reportAssignmentType]
                    chunk = source.recv(_CHUNK)
                    if not chunk:
                        return
                    key.data.sendall(chunk)
