"""Alarms over a real socket to a receiver that refuses, hangs, fails and dies; signed, in order, until acknowledged."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from structlog.testing import capture_logs

from custody.alarms import Alarm
from custody.alarms.delivering import deliver, say
from custody.alarms.rows import BATCH
from custody.alarms.webhook import BODY_LIMIT_BYTES, REPLAY_WINDOW_SECONDS, AlarmWebhook, body_of, read_alarm_secret
from custody.settings.environment import SettingsError, load_settings
from custody.store.engine import SocketInsideTransaction, transaction
from custody.store.schedule_runs import ALARMS_SCHEDULE
from tasks.housekeeping import build_alarms
from tests.alarm_receiver import SECRET, AlarmReceiver, Misbehaviour, give_up, is_authentic, running_receiver
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.request_network_api import answering, hang_up
from tests.webhooks import closed_port

PRIVATE_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.fixture
def receiver() -> Iterator[AlarmReceiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def webhook(url: str, *, timeout_seconds: float = 10) -> AlarmWebhook:
    return AlarmWebhook(url, SECRET, environment="test", timeout_seconds=timeout_seconds)


def delivered(database: Database, url: str, *, timeout_seconds: float = 10) -> int:
    """One pass of the worker."""
    engine = database.engine("fleet_housekeeping")
    return deliver(engine, webhook(url, timeout_seconds=timeout_seconds), lambda: datetime.now(UTC))


def due_now(market: Marketplace) -> None:
    """What was put off is due, in place of waiting for it."""
    market.execute("UPDATE fleet.alarms SET run_after = now()")


def still_open(market: Marketplace) -> list[tuple[str, int, str | None]]:
    rows = market.execute(
        "SELECT subject_id, attempts, last_error FROM fleet.alarms WHERE acknowledged_at IS NULL ORDER BY id"
    )
    return [tuple(row) for row in rows]


def test_alarms_arrive_signed_in_order_and_a_2xx_acknowledges_them(
    market: Marketplace, receiver: AlarmReceiver
) -> None:
    payment = market.payment()
    for number in (1, 2, 3):
        give_up(market.database, number)
    market.execute(
        "INSERT INTO fleet.dead_work (queue, subject_kind, subject_id, payment_id, reason, unblocks, attempts) "
        "VALUES ('sweeps', 'job', '4', :p, 'no gas', 'fund it', 3)",
        p=payment,
    )
    assert delivered(market.database, receiver.url) == 4
    [request] = receiver.came
    assert request.path == "/alarms?team=custody"
    assert request.headers["content-type"] == "application/json"
    assert [alarm["subject"]["id"] for alarm in request.alarms] == ["1", "2", "3", "4"]
    said = json.loads(request.body)
    assert (said["environment"], said["open"]) == ("test", 4)
    assert said["alarms"][3] | {"id": "", "raised_at": ""} == {
        "id": "",
        "kind": "dead_work",
        "subject": {"kind": "sweeps/job", "id": "4"},
        "sentence": "sweeps gave up on job 4: no gas",
        "payment_id": str(payment),
        "raised_at": "",
    }
    assert still_open(market) == []
    assert delivered(market.database, receiver.url) == 0
    assert len(receiver.came) == 1


def test_a_receiver_can_tell_whose_they_are_and_that_they_are_fresh(
    market: Marketplace, receiver: AlarmReceiver
) -> None:
    give_up(market.database, 1)
    delivered(market.database, receiver.url)
    [request] = receiver.came
    now = int(time.time())
    assert is_authentic(request, now)
    assert not is_authentic(request, now, secret=SECRET[:-1] + "2")
    assert not is_authentic(request, now + REPLAY_WINDOW_SECONDS + 60)
    for changed in (request.body.replace(b'"open":1', b'"open":0'), request.body + b" ", b""):
        assert not is_authentic(type(request)(request.path, request.headers, changed), now)
    header = request.headers["x-amanat-signature"]
    later = header.replace("t=", "t=1", 1)
    assert not is_authentic(type(request)(request.path, {"x-amanat-signature": later}, request.body), now)
    assert SECRET not in str(request.headers)


FAILURES: dict[str, tuple[Misbehaviour, str]] = {
    "500": (answering(500), "the webhook answered with status 500; expected 2xx"),
    "401": (answering(401), "the webhook answered with status 401; expected 2xx"),
    "redirect": (answering(307, location="http://127.0.0.1:9/"), "the webhook answered with status 307; expected 2xx"),
    "died": (hang_up, "the webhook cannot be reached: RemoteProtocolError"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_the_receiver_did_not_take_is_put_off_and_comes_again_under_its_id(
    market: Marketplace, receiver: AlarmReceiver, failure: str
) -> None:
    misbehave, said = FAILURES[failure]
    give_up(market.database, 1)
    receiver.next = [misbehave, misbehave]
    with capture_logs() as logs:
        assert delivered(market.database, receiver.url) == 0
    assert [line["event"] for line in logs] == ["alarms_not_delivered"]
    assert still_open(market) == [("1", 1, said)]
    give_up(market.database, 2)
    # The oldest waits for its next try: what came later neither overtakes it nor makes the receiver's life harder.
    assert (delivered(market.database, receiver.url), len(receiver.came)) == (0, 1)
    due_now(market)
    assert delivered(market.database, receiver.url) == 0
    assert [attempts for _, attempts, _ in still_open(market)] == [2, 1]
    due_now(market)
    assert delivered(market.database, receiver.url) == 2
    first, second, third = ([alarm["id"] for alarm in request.alarms] for request in receiver.came)
    assert first == second[:1] == third[:1]
    assert second == third
    signatures = {request.headers["x-amanat-signature"] for request in receiver.came}
    assert all(is_authentic(request, int(time.time())) for request in receiver.came), signatures


def test_a_receiver_that_hangs_or_is_away_loses_nothing(market: Marketplace, receiver: AlarmReceiver) -> None:
    give_up(market.database, 1)
    receiver.next = [receiver.hang]
    assert delivered(market.database, receiver.url, timeout_seconds=0.2) == 0
    assert still_open(market) == [("1", 1, "the webhook gave no answer within 0.2 s")]
    due_now(market)
    assert delivered(market.database, f"http://127.0.0.1:{closed_port()}/") == 0
    assert still_open(market) == [("1", 2, "the webhook cannot be reached: ConnectError")]
    [wait] = market.execute("SELECT run_after - clock_timestamp() AS left FROM fleet.alarms")
    assert timedelta(0) < wait.left <= timedelta(seconds=2)
    market.execute("UPDATE fleet.alarms SET attempts = 500, run_after = now()")
    assert delivered(market.database, f"http://127.0.0.1:{closed_port()}/") == 0
    [wait] = market.execute("SELECT run_after - clock_timestamp() AS left FROM fleet.alarms")
    assert timedelta(seconds=50) < wait.left <= timedelta(seconds=60)
    due_now(market)
    assert delivered(market.database, receiver.url) == 1


PROGRAM = f"import tasks.housekeeping as h; print(h.tidy_up({ALARMS_SCHEDULE!r}, 5))"


def test_killed_between_the_post_and_the_acknowledgement_it_comes_again_under_its_id(
    market: Marketplace, receiver: AlarmReceiver, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": market.database.url("fleet_housekeeping"),
        "ALARM_WEBHOOK_URL": receiver.url,
        "ALARM_WEBHOOK_SECRET_FILE": str(secret),
        "FLEET_STATE_DIR": str(tmp_path),
    }
    give_up(market.database, 1)
    killed: list[int] = []

    def kill(_handler: BaseHTTPRequestHandler) -> None:
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(30)

    receiver.next = [kill]
    worker = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE)
    with worker:
        worker.wait(60)
    assert killed == [worker.pid]
    assert still_open(market) == [("1", 0, None)]
    market.execute("DELETE FROM fleet.schedule_runs")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines()[-1] == "1", ran.stderr
    first, second = receiver.came
    assert first.alarms == second.alarms
    assert still_open(market) == []
    [row] = market.execute("SELECT acknowledged_by, said_at FROM fleet.alarms")
    assert (row.acknowledged_by, row.said_at is not None) == (None, True)
    assert SECRET not in ran.stdout + ran.stderr


def test_nothing_that_looks_like_a_key_is_in_the_body(market: Marketplace, receiver: AlarmReceiver) -> None:
    reasons = (
        f"signing with 0x{PRIVATE_KEY} failed",
        "at postgresql://fleet:hunter2@db:5432/amanat",
        "node https://rpc.example.org/v3/0123456789abcdef0123456789 is away",
        "seed abandon ability able about above absent absorb abstract absurd abuse access accident",
        "first line\nDETAIL:  Key (password)=(hunter2)",
    )
    for number, reason in enumerate(reasons):
        give_up(market.database, number, reason)
    delivered(market.database, receiver.url)
    [request] = receiver.came
    for secret in (PRIVATE_KEY, "hunter2", "0123456789abcdef", "abandon ability", SECRET):
        assert secret not in request.body.decode()
    assert "sweeps gave up on chain_transaction 0: signing with [32 bytes] failed" in request.sentences


def test_a_flood_is_bounded_in_each_request_and_arrives_in_order(market: Marketplace, receiver: AlarmReceiver) -> None:
    count = 3 * BATCH + 1
    for number in range(count):
        give_up(market.database, number, "\U0001f4a3" * 2000)
    for _ in range(1000):
        give_up(market.database, 0, "again and again")
    receiver.next = [answering(503)]
    assert delivered(market.database, receiver.url) == 0
    assert (delivered(market.database, receiver.url), len(receiver.came)) == (0, 1)  # nothing before its time
    due_now(market)
    passes = 0
    while delivered(market.database, receiver.url):
        passes += 1
    assert still_open(market) == []
    assert all(len(request.body) <= BODY_LIMIT_BYTES for request in receiver.came)
    assert all(len(request.alarms) <= BATCH for request in receiver.came)
    assert passes == len(receiver.came) - 1
    taken = [alarm["subject"]["id"] for request in receiver.came[1:] for alarm in request.alarms]
    assert taken == [str(number) for number in range(count)]
    assert json.loads(receiver.came[0].body)["open"] == count


def test_a_body_is_cut_to_its_limit_and_one_alarm_always_fits() -> None:
    at = datetime.now(UTC)
    longest = "\U0001f4a3" * 500
    batch = [
        Alarm(uuid4(), "k" * 40, longest[:100], longest[:200], longest, uuid4(), at, 0, None) for _ in range(BATCH)
    ]
    body, count = body_of(batch, environment="test", open_alarms=BATCH)
    assert 1 <= count < BATCH
    assert len(body) <= BODY_LIMIT_BYTES
    assert len(body_of(batch[:1], environment="test", open_alarms=1)[0]) <= BODY_LIMIT_BYTES // 4


def test_alarms_are_said_once_also_where_no_webhook_is_set(market: Marketplace) -> None:
    give_up(market.database, 1)
    give_up(market.database, 2, f"with {PRIVATE_KEY}")
    step = build_alarms(market.database.engine("fleet_housekeeping"), load_settings())
    structlog.reset_defaults()
    with capture_logs() as logs:
        assert [step(), step()] == [2, 0]
    assert [(line["event"], line["log_level"]) for line in logs] == [("alarm", "error")] * 2
    assert logs[1]["sentence"] == "sweeps gave up on chain_transaction 2: with [32 bytes]"
    assert [subject for subject, _, _ in still_open(market)] == ["1", "2"]


def test_what_could_not_be_said_is_said_at_the_next_pass(market: Marketplace) -> None:
    give_up(market.database, 1)
    engine = market.database.engine("fleet_housekeeping")

    def dies(_alarm: Alarm) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        say(engine, dies)
    heard: list[Alarm] = []
    assert say(engine, heard.append) == 1
    assert [alarm.subject_id for alarm in heard] == ["1"]


def test_no_request_is_made_while_a_transaction_is_open(market: Marketplace, receiver: AlarmReceiver) -> None:
    with transaction(market.database.engine()), pytest.raises(SocketInsideTransaction):
        webhook(receiver.url).post([], open_alarms=0, now=datetime.now(UTC))
    assert receiver.came == []


def test_half_a_configuration_and_a_weak_secret_are_refused(market: Marketplace, tmp_path: Path) -> None:
    engine = market.database.engine("fleet_housekeeping")
    with pytest.raises(SettingsError, match="ALARM_WEBHOOK_SECRET_FILE is not set: expected the secret that signs"):
        build_alarms(engine, load_settings(alarm_webhook_url="https://example.org/alarms"))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with pytest.raises(SettingsError, match="ALARM_WEBHOOK_URL is not set: expected https"):
        build_alarms(engine, load_settings(alarm_webhook_secret_file=secret))
    for weak in ("hunter2", "hunter2" + " " * 40 + "hunter2", "hunter2" * 40):
        secret.write_text(weak)
        with pytest.raises(SettingsError, match="openssl rand -hex 32") as refused:
            read_alarm_secret(secret)
        assert "hunter2" not in str(refused.value)
