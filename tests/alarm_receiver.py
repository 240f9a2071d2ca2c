"""A receiver of alarms over a real socket, which can be told to misbehave; and who raises some."""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from custody.store.work import bury
from tests.conftest import Database
from tests.request_network_api import send

SECRET = "an-alarm-secret-of-forty-characters-0001"
Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Request:
    """One POST as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def alarms(self) -> list[dict[str, Any]]:
        return json.loads(self.body)["alarms"]

    @property
    def sentences(self) -> list[str]:
        return [alarm["sentence"] for alarm in self.alarms]


def is_authentic(request: Request, now_seconds: int, *, secret: str = SECRET) -> bool:
    """What a receiver does, written from the documentation alone: signature over timestamp.body, at most 300 s old."""
    parts = dict(part.split("=", 1) for part in request.headers["x-amanat-signature"].split(","))
    expected = hmac.new(secret.encode(), f"{parts['t']}.".encode() + request.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["v1"]) and abs(now_seconds - int(parts["t"])) <= 300


class AlarmReceiver:
    """Requests that came, and what to do wrong next: one misbehaviour a request, then 204."""

    def __init__(self) -> None:
        self.url = ""
        self.came: list[Request] = []
        self.next: list[Misbehaviour] = []
        self.ended = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.came.append(Request(handler.path, headers, body))
        if self.next:
            self.next.pop(0)(handler)
        else:
            send(handler, 204)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing until the test is over."""
        self.ended.wait(30)
        handler.close_connection = True


@contextmanager
def running_receiver() -> Generator[AlarmReceiver]:
    receiver = AlarmReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was kept waiting hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/alarms?team=custody"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            server.shutdown()
            thread.join(20)
            assert not thread.is_alive()


def give_up(database: Database, number: int | str, reason: str = "nonce_taken") -> None:
    """A process gives up a piece of work; the first time this raises an alarm."""
    with database.engine("fleet_sweeps").begin() as connection:
        bury(
            connection,
            queue="sweeps",
            subject_kind="chain_transaction",
            subject_id=str(number),
            reason=reason,
            unblocks="look",
            attempts=1,
        )
