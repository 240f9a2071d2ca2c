"""What a node is really asked: a proxy on the loopback address that counts requests, and the calls in them."""

import http.client
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

TIMEOUT: Final = 60.0  # seconds, for the node behind it


@dataclass
class Counts:
    """HTTP requests, and the JSON-RPC calls in them by method, since the last ``take``."""

    requests: int = 0
    calls: dict[str, int] = field(default_factory=dict[str, int])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, body: bytes) -> None:
        asked = json.loads(body)
        with self._lock:
            self.requests += 1
            for call in asked if isinstance(asked, list) else [asked]:
                self.calls[call["method"]] = self.calls.get(call["method"], 0) + 1

    def take(self) -> "Counts":
        """What was counted, and begin at nought."""
        with self._lock:
            taken = Counts(self.requests, self.calls)
            self.requests, self.calls = 0, {}
        return taken

    @property
    def all_calls(self) -> int:
        return sum(self.calls.values())


@contextmanager
def counting_proxy(node_url: str) -> Generator[tuple[str, Counts]]:
    """Yields the proxy's URL, and what it counts."""
    counts = Counts()
    node = urlsplit(node_url)
    kept = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            counts.add(body)
            if not hasattr(kept, "connection"):
                kept.connection = http.client.HTTPConnection(node.netloc, timeout=TIMEOUT)
            kept.connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = kept.connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", counts
        server.shutdown()
