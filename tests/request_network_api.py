"""A server that speaks Request Network's ``GET /v2/payments``, over a real socket, and can be told to misbehave."""

import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "rn-api-key-for-tests"
Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


def listed_payment(
    number: int,
    request_id: str | None,
    reference: str | None,
    transaction_hash: str | None,
    at: datetime,
    **fields: Any,
) -> dict[str, Any]:
    """A payment as the API lists it."""
    return {
        "id": f"01KPAYMENT{number:016d}",
        "amount": "100.0",
        "sourceNetwork": "private",
        "destinationNetwork": "private",
        "sourceTxHash": transaction_hash,
        "destinationTxHash": transaction_hash,
        "timestamp": at.isoformat(),
        "type": "direct",
        "currency": "USDC",
        "paymentCurrency": "USDC",
        "fees": [],
        "request": {"requestId": request_id, "paymentReference": reference, "hasBeenPaid": True},
    } | fields


class RequestNetworkApi:
    """Payments, requests that came, and what to do wrong next: one misbehaviour a request, then well again."""

    def __init__(self) -> None:
        self.url = ""
        self.payments: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []
        self.next: list[Misbehaviour] = []
        self.ended = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append(asked)
        if self.next:
            self.next.pop(0)(handler)
            return
        if parts.path != "/v2/payments" or "type" not in asked:
            send(handler, 400)
        elif handler.headers.get("x-api-key") != KEY:
            send(handler, 401)
        else:
            send(handler, 200, self._page(asked))

    def _page(self, asked: dict[str, str]) -> bytes:
        first, last = (datetime.fromisoformat(asked[name]) for name in ("fromDate", "toDate"))
        found = [
            payment
            for payment in self.payments
            if payment["type"] == asked["type"]
            and first <= datetime.fromisoformat(payment["timestamp"]).astimezone(UTC) <= last
        ]
        offset, limit = int(asked["offset"]), int(asked["limit"])
        page = found[offset : offset + limit]
        more = offset + limit < len(found)
        pagination = {"total": len(found), "limit": limit, "offset": offset, "hasMore": more}
        return json.dumps({"payments": page, "pagination": pagination}).encode()

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing until the test is over."""
        self.ended.wait(30)
        handler.close_connection = True

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then, and never an end: no single read is ever late."""
        handler.send_response(200)
        handler.end_headers()
        try:
            while not self.ended.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            pass  # the client has gone
        handler.close_connection = True


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answering(status: int, body: bytes = b"", **headers: str) -> Misbehaviour:
    return lambda handler: send(handler, status, body, **headers)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_api() -> Generator[RequestNetworkApi]:
    api = RequestNetworkApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was kept waiting hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            api.ended.set()
            server.shutdown()
            thread.join(20)
            assert not thread.is_alive()
