"""An error in a process reaches a Sentry on loopback, as a real envelope, without keys and money."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import pytest

PRIVATE_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
PROGRAM = f"""
import sys
from custody.settings.environment import load_settings
from workers.telemetry.sentry import init_sentry
import sentry_sdk
assert init_sentry(load_settings(), process="worker-releases")
def release(private_key, amount):
    sentry_sdk.set_context("release", {{"amount": amount, "payment_id": "pay-7", "private_key": private_key}})
    raise RuntimeError("cannot pay 1250.75 with " + private_key + " at redis://:hunter2@valkey:6379/0")
try:
    release("{PRIVATE_KEY}", "1250.75")
except RuntimeError as error:
    sentry_sdk.capture_exception(error)
"""


@pytest.fixture
def sentry() -> Iterator[tuple[str, "Queue[bytes]"]]:
    """A DSN on loopback, and the bodies that arrive there."""
    arrived: Queue[bytes] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.put(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://public@127.0.0.1:{server.server_port}/1", arrived
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_error_arrives_scrubbed(sentry: tuple[str, "Queue[bytes]"]) -> None:
    dsn, arrived = sentry
    environment = {"SENTRY_DSN": dsn, "SENTRY_ENVIRONMENT": "test", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    envelope = arrived.get(timeout=10).decode()
    event: dict[str, Any] = json.loads(envelope.splitlines()[2])
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "RuntimeError"
    assert exception["value"].startswith("cannot pay [number]")
    assert event["tags"]["process"] == "worker-releases"
    assert event["environment"] == "test"
    assert event["contexts"]["release"]["payment_id"] == "pay-7"
    assert [frame["function"] for frame in exception["stacktrace"]["frames"]] == ["<module>", "release"]
    for secret in (PRIVATE_KEY, "1250", "hunter2", "vars"):
        assert secret not in envelope


ALARM_PROGRAM = f"""
from datetime import UTC, datetime
from uuid import UUID
from custody.alarms import Alarm
from custody.settings.environment import load_settings
from tasks.housekeeping import say_alarm
from workers.telemetry.sentry import init_sentry
assert init_sentry(load_settings(), process="worker-housekeeping")
say_alarm(Alarm(UUID(int=7), "chain_paused", "chain", "31337", "chain 31337 is paused: 1250.75 and {PRIVATE_KEY}", None,
                datetime.now(UTC), 0, None))
"""


def test_an_alarm_is_an_event_of_its_own_group_without_keys_and_money(sentry: tuple[str, "Queue[bytes]"]) -> None:
    dsn, arrived = sentry
    ran = subprocess.run(
        [sys.executable, "-c", ALARM_PROGRAM],
        env={"SENTRY_DSN": dsn, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    envelope = arrived.get(timeout=10).decode()
    event: dict[str, Any] = json.loads(envelope.splitlines()[2])
    assert (event["level"], event["message"]) == ("error", "chain 31337 is paused: [number] and [32 bytes]")
    assert event["fingerprint"] == ["alarm", "00000000-0000-0000-0000-000000000007"]
    assert event["tags"]["alarm_kind"] == "chain_paused"
    for secret in (PRIVATE_KEY, "1250"):
        assert secret not in envelope


def test_without_a_dsn_nothing_is_sent() -> None:
    program = (
        "from custody.settings.environment import load_settings\n"
        "from workers.telemetry.sentry import init_sentry\nimport sentry_sdk\n"
        "assert init_sentry(load_settings(), process='beat') is False\n"
        "assert sentry_sdk.capture_message('x') is None"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
