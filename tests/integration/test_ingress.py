"""The webhook ingress over a real socket and a real database."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from custody.providers.request_network.delivery import read_delivery
from custody.settings.environment import SettingsError, load_settings
from tests.conftest import Database
from tests.webhooks import (
    OLD_SECRET,
    SECRET,
    body_of,
    closed_port,
    paying_event,
    running_ingress,
    signed_headers,
    write_secrets,
)
from workers.ingress.journal import Journal, NotJournalled
from workers.ingress.server import configure

BODY = body_of(paying_event("01" + "ab" * 32, "0x" + "cd" * 8, "0x" + "ef" * 32))
PATH = "/webhooks/request-network"
LIMIT = 4096


@pytest.fixture
def secrets_file(tmp_path: Path) -> Path:
    return write_secrets(tmp_path / "webhook_secrets", SECRET)


@pytest.fixture
def ingress(database: Database, secrets_file: Path) -> Iterator[httpx.Client]:
    with (
        running_ingress(database.url("fleet_ingress"), secrets_file, ingress_body_limit_bytes=LIMIT) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        yield client


def rows(database: Database) -> list[Any]:
    with database.engine().connect() as connection:
        return list(connection.execute(text("SELECT * FROM fleet.webhook_deliveries ORDER BY id")))


def rings(database: Database) -> int:
    with database.engine().connect() as connection:
        return connection.execute(text("SELECT count(*) FROM fleet.outbox WHERE queue = 'webhooks'")).scalar_one()


def test_a_signed_delivery_is_journalled_before_the_answer(database: Database, ingress: httpx.Client) -> None:
    headers = signed_headers(BODY, delivery="01JSOME") | {"authorization": "Bearer never-stored"}
    answer = ingress.post(PATH, content=BODY, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    (row,) = rows(database)
    assert (row.provider, row.delivery_key, row.state) == ("request.network", "01JSOME", "received")
    assert bytes(row.body) == BODY
    assert row.is_test is False
    assert row.headers["x-request-network-retry-count"] == "0"
    assert "never-stored" not in json.dumps(row.headers)
    assert rings(database) == 1


def test_a_repeated_delivery_is_one_row_and_a_new_id_another(database: Database, ingress: httpx.Client) -> None:
    for delivery in ("one", "one", "two", "one"):
        headers = signed_headers(BODY, delivery=delivery)
        assert ingress.post(PATH, content=BODY, headers=headers).status_code == 200
    assert [row.delivery_key for row in rows(database)] == ["one", "two"]
    assert rings(database) == 2


def test_a_test_delivery_is_marked_and_hides_no_real_one(database: Database, ingress: httpx.Client) -> None:
    headers = signed_headers(BODY, delivery="one")
    test = headers | {"x-request-network-test": "true"}
    for sent in (test, headers):
        assert ingress.post(PATH, content=BODY, headers=sent).status_code == 200
    assert [row.is_test for row in rows(database)] == [True, False]


def test_wrong_signatures_get_one_identical_answer(database: Database, ingress: httpx.Client) -> None:
    good = signed_headers(BODY)["x-request-network-signature"]
    answers = [
        ingress.post(PATH, content=BODY, headers=headers)
        for headers in (
            {},
            {"x-request-network-signature": ""},
            {"x-request-network-signature": "0" * 64},
            {"x-request-network-signature": good.upper()},
            {b"x-request-network-signature": b"\xff" * 64},
            {"x-request-network-signature": signed_headers(BODY, secret=OLD_SECRET)["x-request-network-signature"]},
            [("x-request-network-signature", good), ("x-request-network-signature", "0" * 64)],
        )
    ]
    answers.append(ingress.post(PATH, content=BODY + b" ", headers=signed_headers(BODY)))
    told = {
        (a.status_code, a.content, tuple(sorted((k, v) for k, v in a.headers.items() if k != "date"))) for a in answers
    }
    assert told == {(401, b"", (("content-length", "0"),))}
    assert rows(database) == []


def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(
    database: Database, ingress: httpx.Client
) -> None:
    for size, expected in ((LIMIT, 200), (LIMIT + 1, 413), (200_000, 413)):
        body = b"x" * size
        assert ingress.post(PATH, content=body, headers=signed_headers(body)).status_code == expected
    assert [len(row.body) for row in rows(database)] == [LIMIT]


def test_reading_a_body_of_unknown_length_stops_at_the_limit(ingress: httpx.Client) -> None:
    url = ingress.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            + b"%x\r\n%s\r\n" % (LIMIT, b"x" * LIMIT)
            + b"1\r\nx\r\n"  # one byte over, and no end
        )
        answer = connection.makefile("rb").read()  # up to the end that the server makes
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_announced_length_over_the_limit_is_refused_unread(ingress: httpx.Client) -> None:
    url = ingress.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_other_methods_and_paths(ingress: httpx.Client) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert ingress.request(method, PATH).status_code == 405
    for path in ("/", PATH + "/", "/docs", "/webhooks"):
        assert ingress.get(path).status_code == 404
    assert ingress.post("/healthz").status_code == 405


def test_secrets_rotate_without_a_restart(ingress: httpx.Client, secrets_file: Path) -> None:
    def answer(secret: str) -> int:
        return ingress.post(PATH, content=BODY, headers=signed_headers(BODY, secret=secret)).status_code

    new = "aa" * 32
    assert [answer(SECRET), answer(new)] == [200, 401]
    write_secrets(secrets_file, new, SECRET)
    assert [answer(SECRET), answer(new)] == [200, 200]
    write_secrets(secrets_file, new)
    assert [answer(SECRET), answer(new)] == [401, 200]
    secrets_file.write_text("half", encoding="utf-8")
    assert [answer(SECRET), answer(new)] == [401, 200]
    secrets_file.unlink()
    assert [answer(SECRET), answer(new)] == [401, 200]
    write_secrets(secrets_file, SECRET)
    assert [answer(SECRET), answer(new)] == [200, 401]


def test_two_hundred_at_once_are_all_durable(database: Database, ingress: httpx.Client) -> None:
    async def deliver(client: httpx.AsyncClient, n: int) -> tuple[str, int]:
        body = body_of({"event": "payment.failed", "n": n % 150})
        key = f"delivery-{n % 150}"  # fifty are sent twice
        answer = await client.post(PATH, content=body, headers=signed_headers(body, delivery=key))
        return key, answer.status_code

    async def deliver_all() -> list[tuple[str, int]]:
        async with httpx.AsyncClient(base_url=ingress.base_url, trust_env=False, timeout=60) as client:
            return await asyncio.gather(*(deliver(client, n) for n in range(200)))

    answers = asyncio.run(deliver_all())
    assert {status for _, status in answers} == {200}
    journalled = [row.delivery_key for row in rows(database)]
    assert sorted(journalled) == sorted({key for key, _ in answers})
    assert 1 <= rings(database) <= 150


def test_the_relay_is_woken_after_the_commit(database: Database, ingress: httpx.Client) -> None:
    with psycopg.connect(database.url("fleet_relay"), autocommit=True) as relay:
        relay.execute("LISTEN fleet_outbox")
        assert ingress.post(PATH, content=BODY, headers=signed_headers(BODY)).status_code == 200
        (notice,) = relay.notifies(timeout=20, stop_after=1)
    assert notice.channel == "fleet_outbox"


def test_health_tells_process_and_database(ingress: httpx.Client) -> None:
    answer = ingress.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"process": "ok", "database": "ok"})


def test_without_a_database_the_sender_is_asked_to_try_again(database: Database, secrets_file: Path) -> None:
    parts = urlsplit(database.url("fleet_ingress"))
    user = parts.netloc.rpartition("@")[0]
    away = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{closed_port()}"))
    with (
        running_ingress(away, secrets_file) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        answer = client.post(PATH, content=BODY, headers=signed_headers(BODY))
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (503, "1", b"")
        assert client.post(PATH, content=BODY).status_code == 401
        health = client.get("/healthz")
        assert (health.status_code, health.json()["database"]) == (503, "away")


def test_lost_connections_are_opened_again(database: Database, ingress: httpx.Client) -> None:
    assert ingress.post(PATH, content=BODY, headers=signed_headers(BODY)).status_code == 200
    with database.engine().connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fleet_ingress'"
                " AND datname = current_database()"
            )
        ).all()
    assert ended
    statuses = [ingress.post(PATH, content=BODY, headers=signed_headers(BODY)).status_code for _ in range(4)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200
    assert len(rows(database)) == 1 + statuses.count(200)


def test_a_full_journal_turns_away_and_late_writes_are_not_answered_with_200(
    database: Database, secrets_file: Path
) -> None:
    """While a lock keeps every insert waiting, nothing is answered with 200."""
    with (
        running_ingress(
            database.url("fleet_ingress"), secrets_file, ingress_queue_limit=1, ingress_batch_limit=1
        ) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
        database.engine().connect() as lock,
        ThreadPoolExecutor(8) as pool,
    ):
        lock.execute(text("LOCK TABLE fleet.webhook_deliveries IN ACCESS EXCLUSIVE MODE"))
        sent = [pool.submit(client.post, PATH, content=BODY, headers=signed_headers(BODY)) for _ in range(8)]
        answers = [one.result() for one in sent]
        lock.rollback()
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        assert client.post(PATH, content=BODY, headers=signed_headers(BODY)).status_code == 200


def write_as_one_batch(database: Database, bodies: list[bytes]) -> list[bool]:
    """Let deliveries wait before the journal starts, so that one batch takes them all; which were written."""

    async def write() -> list[BaseException | None]:
        journal = Journal(database.url("fleet_ingress"), queue_limit=100, batch_limit=100)
        waiting = [asyncio.ensure_future(journal.write(read_delivery([], body))) for body in bodies]
        await asyncio.sleep(0)
        journal.start()
        try:
            return await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            await journal.stop()

    answers = asyncio.run(write())
    assert all(answer is None or isinstance(answer, NotJournalled) for answer in answers)
    return [answer is None for answer in answers]


def test_a_batch_has_one_ring_and_repeats_inside_it_are_one_row(database: Database) -> None:
    bodies = [body_of({"event": "payment.failed", "n": n}) for n in range(20)]
    assert write_as_one_batch(database, bodies + bodies) == [True] * 40
    assert sorted(bytes(row.body) for row in rows(database)) == sorted(bodies)
    assert rings(database) == 1
    assert write_as_one_batch(database, bodies) == [True] * 20
    assert rings(database) == 1  # nothing new


def test_a_row_that_the_database_refuses_does_not_take_its_batch_along(database: Database) -> None:
    poison = body_of({"event": "poison"})
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE fleet.webhook_deliveries ADD CHECK (body <> decode('{poison.hex()}', 'hex'))"
        )
    bodies = [body_of({"event": "payment.failed", "n": n}) for n in range(15)]
    assert write_as_one_batch(database, [*bodies[:7], poison, *bodies[7:]]) == [
        *[True] * 7,
        False,
        *[True] * 8,
    ]
    assert sorted(bytes(row.body) for row in rows(database)) == sorted(bodies)


def test_the_ingress_can_read_nothing(database: Database) -> None:
    for statement in (
        "SELECT 1 FROM fleet.webhook_deliveries",
        "SELECT 1 FROM fleet.outbox",
        "UPDATE fleet.webhook_deliveries SET state = 'dead'",
        "DELETE FROM fleet.webhook_deliveries",
        "SELECT 1 FROM public.payments",
    ):
        with (
            pytest.raises(DBAPIError, match="permission denied"),
            database.engine("fleet_ingress").connect() as connection,
        ):
            connection.execute(text(statement))


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="REQUEST_NETWORK_WEBHOOK_SECRETS_FILE"):
        configure(load_settings(database_url="postgresql://u:p@127.0.0.1/x"))
    with pytest.raises(SettingsError, match="does not exist"):
        configure(
            load_settings(
                database_url="postgresql://u:p@127.0.0.1/x",
                request_network_webhook_secrets_file=tmp_path / "none",
            )
        )
