"""The client of Request Network's API, against a server that speaks it and one that does all it should not."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from custody.providers.request_network import payments_api
from custody.providers.request_network.payments_api import ApiAway, Pace, PaymentsApi
from custody.settings.environment import SettingsError, load_settings
from custody.store.engine import SocketInsideTransaction, transaction
from tests.conftest import Database
from tests.request_network_api import (
    KEY,
    Misbehaviour,
    RequestNetworkApi,
    answering,
    hang_up,
    listed_payment,
    running_api,
)
from tests.webhooks import closed_port

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = (NOW - timedelta(hours=1), NOW)


@pytest.fixture
def api() -> Iterator[RequestNetworkApi]:
    with running_api() as running:
        yield running


def client(api: RequestNetworkApi, *, key: str = KEY, timeout_seconds: float = 10) -> PaymentsApi:
    return PaymentsApi(api.url, key, Pace(0), timeout_seconds=timeout_seconds, retry_seconds=0)


def test_a_page_is_asked_for_as_the_api_documents_it(api: RequestNetworkApi) -> None:
    api.payments = [listed_payment(n, None, None, None, NOW - timedelta(minutes=n)) for n in range(250)]
    sizes = [len(client(api).page("direct", WINDOW, offset).payments) for offset in (0, 50, 61)]
    assert sizes == [61, 11, 0]
    assert api.asked[1] == {
        "type": "direct",
        "fromDate": "2026-03-01T11:00:00.000Z",
        "toDate": "2026-03-01T12:00:00.000Z",
        "limit": "100",
        "offset": "50",
    }


def test_more_is_said_until_the_last_page(api: RequestNetworkApi) -> None:
    api.payments = [listed_payment(n, None, None, None, NOW) for n in range(250)]
    pages = [client(api).page("direct", WINDOW, offset) for offset in (0, 100, 200)]
    assert [(len(page.payments), page.has_more) for page in pages] == [(100, True), (100, True), (50, False)]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_once_more(api: RequestNetworkApi, status: int) -> None:
    api.next = [answering(status)]
    assert client(api).page("direct", WINDOW, 0).payments == []
    assert len(api.asked) == 2


def test_a_connection_that_is_cut_is_tried_once_more(api: RequestNetworkApi) -> None:
    api.next = [hang_up]
    assert client(api).page("direct", WINDOW, 0).payments == []


@pytest.mark.parametrize(
    ("status", "requests", "said"),
    [
        (429, 2, "asked too often"),
        (503, 2, "status 503"),
        (401, 1, "refused the key"),
        (403, 1, "refused the key"),
        (404, 1, "status 404"),
        (302, 1, "status 302"),
    ],
)
def test_what_stays_is_said_and_not_asked_for_ever(
    api: RequestNetworkApi, status: int, requests: int, said: str
) -> None:
    api.next = [answering(status, location=f"{api.url}/elsewhere")] * 3
    with pytest.raises(ApiAway, match=said):
        client(api).page("direct", WINDOW, 0)
    assert len(api.asked) == requests


PAGE = {"payments": [], "pagination": {"hasMore": False}}
GARBAGE = [
    b"",
    b"<html>",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"a": "\\"]]", "b": ' + b'["]",' * 5_000,  # closing brackets in texts close nothing
    b'{"payments": NaN}',
    *(
        json.dumps(PAGE | wrong).encode()
        for wrong in (
            {"payments": None},
            {"payments": {}},
            {"payments": [1]},
            {"payments": [{}] * 101},
            {"pagination": None},
            {"pagination": {}},
            {"pagination": {"hasMore": "yes"}},
            {"pagination": {"hasMore": True}},  # more of nothing: it would never end
        )
    ),
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_page(api: RequestNetworkApi, body: bytes) -> None:
    api.next = [answering(200, body)]
    with pytest.raises(ApiAway, match="expected payments"):
        client(api).page("direct", WINDOW, 0)


def test_an_answer_without_end_is_cut_off(api: RequestNetworkApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payments_api, "BODY_LIMIT_BYTES", 10_000)
    api.next = [answering(200, b" " * 10_001)]
    with pytest.raises(ApiAway, match="more than 10000 bytes"):
        client(api).page("direct", WINDOW, 0)


@pytest.mark.parametrize(("how", "said"), [("hang", "no answer"), ("drip", "did not come to an end")])
def test_who_hangs_or_drips_is_left(api: RequestNetworkApi, how: str, said: str) -> None:
    misbehaviour: Misbehaviour = getattr(api, how)
    api.next = [misbehaviour, misbehaviour]
    with pytest.raises(ApiAway, match=said):
        client(api, timeout_seconds=0.2).page("direct", WINDOW, 0)


def test_nobody_there_is_said(api: RequestNetworkApi) -> None:
    api.url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ApiAway, match="cannot be reached: ConnectError"):
        client(api).page("direct", WINDOW, 0)


def test_amounts_keep_every_digit(api: RequestNetworkApi) -> None:
    body = b'{"payments": [{"amount": 0.1234567890123456789012345}], "pagination": {"hasMore": false}}'
    api.next = [answering(200, body)]
    assert client(api).page("direct", WINDOW, 0).payments == [{"amount": "0.1234567890123456789012345"}]


def test_the_key_is_in_no_error(api: RequestNetworkApi) -> None:
    wrong = "another-key-entirely"
    with pytest.raises(ApiAway) as refusal:
        client(api, key=wrong).page("direct", WINDOW, 0)
    assert wrong not in repr(refusal.value)
    for key in ("short", "two words of it", "line\nbreak", "ключ-ключ"):
        with pytest.raises(SettingsError, match="REQUEST_NETWORK_API_KEY_FILE") as refused:
            client(api, key=key)
        assert key not in str(refused.value)


def test_the_api_is_not_asked_inside_a_transaction(api: RequestNetworkApi, database: Database) -> None:
    """L15: no socket but Postgres' inside a transaction."""
    with transaction(database.engine()), pytest.raises(SocketInsideTransaction):
        client(api).page("direct", WINDOW, 0)
    assert api.asked == []


def test_requests_are_kept_apart() -> None:
    clock = [100.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    pace = Pace(2.0, now_seconds=lambda: clock[0], sleep_seconds=sleep)
    pace.wait()
    pace.wait()
    clock[0] += 0.5
    pace.wait()
    clock[0] += 60
    pace.wait()
    assert waits == [2.0, 1.5]


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://api.request.network", True),
        ("https://api.request.network/", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://api.request.network", False),
        ("https://user:word@api.request.network", False),
        ("https://api.request.network/v2?x=1", False),
        ("ftp://api.request.network", False),
    ],
)
def test_the_key_is_sent_over_tls_or_not_off_this_machine(url: str, *, fits: bool) -> None:
    if fits:
        assert load_settings(request_network_api_url=url).request_network_api_url == url
        return
    with pytest.raises(SettingsError, match="REQUEST_NETWORK_API_URL"):
        load_settings(request_network_api_url=url)
