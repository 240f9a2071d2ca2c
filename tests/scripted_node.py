"""A node on loopback whose every answer is written by the test: wrong, slow, cut off, too long."""

import json
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Stands in each part of the node's URL where providers put their key.
SECRET = "k3y-0123456789abcdef"

Script = Callable[[Any], Any]


class ScriptedNode:
    """A real HTTP server whose answer to each request body is what `script` returns for it.

    bytes are sent as they are, an int is an HTTP status, None closes the connection unanswered, anything
    else is JSON.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[Any] = []
        self.encoding: str | None = None
        self.parts: Callable[[bytes], Iterable[bytes]] = lambda content: [content]

    @contextmanager
    def running(self) -> Generator[str]:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                node.bodies.append(body)
                answer = node.script(body)
                if answer is None:
                    self.close_connection = True
                    return
                status = answer if isinstance(answer, int) else 200
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                if node.encoding:
                    self.send_header("Content-Encoding", node.encoding)
                self.end_headers()
                for part in node.parts(content):
                    self.wfile.write(part)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://user:{SECRET}@127.0.0.1:{server.server_port}/v3/{SECRET}?apikey={SECRET}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
