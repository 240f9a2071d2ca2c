"""The scanner's and SHKeeper's doors of the ingress, over a real socket and a real database."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.provider_deliveries import (
    API_KEY,
    confirmed,
    invoice,
    scanner_headers,
    scanner_payment,
    shkeeper_headers,
    shkeeper_payment,
)
from tests.webhooks import SECRET, body_of, closed_port, running_ingress, write_secrets

SCANNER = "/webhooks/amn-scanner"
SHKEEPER = "/webhooks/shkeeper"
LIMIT = 4096


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture(scope="module")
def api_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_secrets(tmp_path_factory.mktemp("keys") / "api_keys", API_KEY)


@pytest.fixture(scope="module")
def ingress(
    module_database: Database, api_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    with (
        running_ingress(
            module_database.url("fleet_ingress"),
            write_secrets(tmp_path_factory.mktemp("secrets") / "webhook_secrets", SECRET),
            shkeeper_api_keys_file=api_keys,
            ingress_body_limit_bytes=LIMIT,
        ) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        yield client


def journalled(market: Marketplace, body: bytes) -> list[Any]:
    return market.execute("SELECT * FROM fleet.webhook_deliveries WHERE body = :body", body=body)


def told(answer: httpx.Response) -> tuple[Any, ...]:
    """Everything that an answer tells."""
    headers = tuple(sorted((name, value) for name, value in answer.headers.items() if name != "date"))
    return answer.status_code, answer.content, headers


NOTHING = (401, b"", (("content-length", "0"),))


def test_a_scanner_s_delivery_is_proved_by_its_intent_s_secret_and_journalled_first(
    market: Marketplace, ingress: httpx.Client
) -> None:
    _, intent = scanner_payment(market)
    body = body_of(confirmed(intent))
    answer = ingress.post(SCANNER, content=body, headers=scanner_headers(body, intent.callback_secret))
    assert (answer.status_code, answer.content) == (200, b"")
    (row,) = journalled(market, body)
    assert (row.provider, row.state, row.is_test) == ("amn.scanner", "received", False)
    assert row.delivery_key == "body:" + bytes(row.body_sha256).hex()
    assert intent.callback_secret not in json.dumps(row.headers)


def test_a_scanner_s_delivery_sent_again_is_one_row(market: Marketplace, ingress: httpx.Client) -> None:
    _, intent = scanner_payment(market)
    body = body_of(confirmed(intent))
    headers = scanner_headers(body, intent.callback_secret)
    assert {ingress.post(SCANNER, content=body, headers=headers).status_code for _ in range(5)} == {200}
    assert len(journalled(market, body)) == 1


def test_every_wrong_scanner_delivery_gets_one_identical_answer(market: Marketplace, ingress: httpx.Client) -> None:
    _, intent = scanner_payment(market)
    _, other = scanner_payment(market)
    body = body_of(confirmed(intent))
    good = scanner_headers(body, intent.callback_secret)["x-amn-signature"]
    unknown = body_of(confirmed(intent) | {"intentId": "nobody-s"})
    cases: list[tuple[bytes, Any]] = [
        (body, {}),
        (body, {"x-amn-signature": ""}),
        (body, {"x-amn-signature": good.upper()}),
        (body, {"x-amn-signature": "0" * 64}),
        (body, {b"x-amn-signature": b"\xff" * 64}),
        (body, [("x-amn-signature", good), ("x-amn-signature", good)]),
        (body, {"x-amn-signature": "sha256=" + good}),
        (body, scanner_headers(body, other.callback_secret)),  # another intent's secret
        (body + b" ", {"x-amn-signature": good}),
        (unknown, scanner_headers(unknown, intent.callback_secret)),
        (unknown, scanner_headers(unknown, "")),
        *(
            (wrong, scanner_headers(wrong, intent.callback_secret))
            for wrong in (b"", b"no json", b"[]", b"{}", b"[" * 3000, b'{"intentId": 7}', b'{"intentId": "a\\u0000b"}')
        ),
    ]
    assert {told(ingress.post(SCANNER, content=sent, headers=headers)) for sent, headers in cases} == {NOTHING}
    for sent, _ in cases:
        assert journalled(market, sent) == []


def test_a_body_that_is_no_event_is_accepted_from_who_proved_himself(
    market: Marketplace, ingress: httpx.Client
) -> None:
    """It is never refused for what it says: it is kept raw, and an operator sees it as malformed."""
    _, intent = scanner_payment(market)
    body = body_of({"intentId": intent.intent_id})
    answer = ingress.post(SCANNER, content=body, headers=scanner_headers(body, intent.callback_secret))
    assert answer.status_code == 200
    assert [bytes(row.body) for row in journalled(market, body)] == [body]


@pytest.mark.parametrize("path", [SCANNER, SHKEEPER])
def test_other_methods_and_larger_bodies_are_refused(ingress: httpx.Client, market: Marketplace, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert ingress.request(method, path).status_code == 405
    assert ingress.post(path + "/").status_code == 404
    body = b"x" * (LIMIT + 1)
    assert ingress.post(path, content=body, headers=shkeeper_headers(body)).status_code == 413
    assert journalled(market, body) == []


def test_a_callback_of_shkeeper_is_answered_with_202_and_repeats_are_one_row(
    market: Marketplace, ingress: httpx.Client
) -> None:
    _, name = shkeeper_payment(market)
    body = body_of(invoice(name))
    for headers in (shkeeper_headers(body), shkeeper_headers(body), shkeeper_headers(body, timestamp="1711111111")):
        answer = ingress.post(SHKEEPER, content=body, headers=headers)
        assert (answer.status_code, answer.content) == (202, b"")
    (row,) = journalled(market, body)
    assert row.provider == "shkeeper"
    assert API_KEY not in json.dumps(row.headers)


def test_every_wrong_callback_of_shkeeper_gets_one_identical_answer(market: Marketplace, ingress: httpx.Client) -> None:
    body = body_of(invoice("1"))
    signed = shkeeper_headers(body, timestamp="1711111111")
    cases: list[Any] = [
        {},
        {"x-shkeeper-api-key": ""},
        {"x-shkeeper-api-key": API_KEY[:-1]},
        {"x-shkeeper-api-key": API_KEY + " x"},
        {"x-shkeeper-api-key": API_KEY.upper()},
        {"x-shkeeper-api-key": "x" * 3000},
        {b"x-shkeeper-api-key": b"\xff" * 16},
        [("x-shkeeper-api-key", API_KEY), ("x-shkeeper-api-key", API_KEY)],
        signed | {"x-shkeeper-signature": "0" * 64},
        signed | {"x-shkeeper-timestamp": "1711111112"},
        signed | {"x-shkeeper-timestamp": "soon"},
        {name: value for name, value in signed.items() if name != "x-shkeeper-timestamp"},
        {name: value for name, value in signed.items() if name != "x-shkeeper-signature"},
        {name: value for name, value in signed.items() if name != "x-shkeeper-api-key"},
    ]
    assert {told(ingress.post(SHKEEPER, content=body, headers=headers)) for headers in cases} == {NOTHING}
    assert journalled(market, body) == []


def test_shkeeper_s_keys_rotate_without_a_restart(ingress: httpx.Client, api_keys: Path) -> None:
    def answer(key: str) -> int:
        body = body_of(invoice(secrets.token_hex(4)))
        return ingress.post(SHKEEPER, content=body, headers=shkeeper_headers(body, key)).status_code

    new = "wvoNQaHswSBk9rZu"
    write_secrets(api_keys, new, API_KEY)
    assert [answer(API_KEY), answer(new)] == [202, 202]
    write_secrets(api_keys, new)
    assert [answer(API_KEY), answer(new)] == [401, 202]
    write_secrets(api_keys, API_KEY)
    assert [answer(API_KEY), answer(new)] == [202, 401]


def test_without_its_keys_shkeeper_has_no_door(module_database: Database, tmp_path: Path) -> None:
    with running_ingress(module_database.url("fleet_ingress"), write_secrets(tmp_path / "s", SECRET)) as url:
        body = body_of(invoice("1"))
        answer = httpx.post(f"{url}{SHKEEPER}", content=body, headers=shkeeper_headers(body), trust_env=False)
    assert answer.status_code == 404


def test_without_a_database_the_scanner_is_asked_to_try_again(market: Marketplace, tmp_path: Path) -> None:
    _, intent = scanner_payment(market)
    body = body_of(confirmed(intent))
    away = f"postgresql://fleet_ingress:x@127.0.0.1:{closed_port()}/nothing"
    with running_ingress(away, write_secrets(tmp_path / "s", SECRET)) as url:
        headers = scanner_headers(body, intent.callback_secret)
        answer = httpx.post(f"{url}{SCANNER}", content=body, headers=headers, trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (503, "1", b"")
        assert httpx.post(f"{url}{SCANNER}", content=body, trust_env=False).status_code == 401


def test_a_lost_connection_to_the_secrets_is_opened_again(market: Marketplace, ingress: httpx.Client) -> None:
    _, intent = scanner_payment(market)

    def answer() -> int:
        body = body_of(confirmed(intent, note=secrets.token_hex(4)))
        return ingress.post(SCANNER, content=body, headers=scanner_headers(body, intent.callback_secret)).status_code

    assert answer() == 200
    ended = market.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet-ingress-secrets' "
        "AND datname = current_database()"
    )
    assert ended
    statuses = [answer() for _ in range(3)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200


def test_no_role_reads_a_secret_but_the_ingress_one_at_a_time(market: Marketplace, module_database: Database) -> None:
    """R9: the ingress cannot list intents, the others cannot read a secret, and nobody changes one."""
    _, intent = scanner_payment(market)
    ask = text("SELECT fleet.scanner_callback_secret(:intent)")
    with module_database.engine("fleet_ingress").connect() as connection:
        assert connection.execute(ask, {"intent": intent.intent_id}).scalar_one() == intent.callback_secret
        assert connection.execute(ask, {"intent": "nobody-s"}).scalar_one() is None
    refused = [("fleet_ingress", text("SELECT intent_id FROM fleet.scanner_intents"), {})]
    for role in ("fleet_webhooks", "fleet_operator", "fleet_housekeeping", "fleet_watcher", "fleet_signer_api"):
        refused += [
            (role, text("SELECT callback_secret FROM fleet.scanner_intents"), {}),
            (role, ask, {"intent": intent.intent_id}),
            (role, text("UPDATE fleet.scanner_intents SET callback_secret = repeat('x', 64)"), {}),
        ]
    for role, statement, parameters in refused:
        with (
            pytest.raises(DBAPIError, match="permission denied"),
            module_database.engine(role).connect() as connection,
        ):
            connection.execute(statement, parameters)
