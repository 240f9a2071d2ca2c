"""Reconciliation on a real database and a real server: what the API lists becomes hints, and a stop loses nothing."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from custody.providers.request_network import PAYMENTS, reconciliation
from custody.providers.request_network.payments_api import KINDS, Pace, PaymentsApi
from custody.providers.request_network.reconciliation import FIRST_WINDOW, OVERLAP, RECENT, WINDOW_MAXIMUM, reconcile
from custody.providers.verification import run_once
from custody.settings import environment
from custody.settings.environment import SettingsError, load_settings
from custody.store.schedule_runs import PAYMENTS_SCHEDULE
from tasks import doors, housekeeping
from tasks.doors import Door
from tasks.housekeeping import build_reconciliation
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from tests.provider_deliveries import HASH, receive
from tests.request_network_api import KEY, RequestNetworkApi, answering, hang_up, listed_payment, running_api
from tests.webhooks import body_of, paying_event, write_secrets

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Reconciler:
    """A marketplace, the API, and a clock of the test's own."""

    def __init__(self, database: Database, api: RequestNetworkApi) -> None:
        self.market = Marketplace(database)
        self.api = api
        self.now = NOW
        self.client = PaymentsApi(api.url, KEY, Pace(0), retry_seconds=0)
        self._number = 0
        self.begin(NOW - timedelta(hours=2))

    def begin(self, at: datetime) -> None:
        """Let everything up to then have been read."""
        self.market.execute("DELETE FROM fleet.reconciliation_cursors")
        self.market.execute(
            "INSERT INTO fleet.reconciliation_cursors (source, reconciled_to) VALUES (:s, :t)", s=PAYMENTS, t=at
        )

    def lists(self, payment: UUID | None, *, transaction_hash: str | None = HASH, **fields: Any) -> dict[str, Any]:
        """Let the API list a payment, an hour ago."""
        self._number += 1
        request_id, reference = "01" + "00" * 32, "0x" + "00" * 8
        if payment is not None:
            (route,) = self.market.execute("SELECT * FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
            request_id, reference = route.request_id, route.payment_reference
        at = fields.pop("at", self.now - timedelta(hours=1))
        listed = listed_payment(self._number, request_id, reference, transaction_hash, at, **fields)
        self.api.payments.append(listed)
        return listed

    def step(self) -> int:
        return reconcile(self.market.database.engine("fleet_housekeeping"), self.client, lambda: self.now)

    def run(self) -> int:
        """Steps until nothing is due; how many pages."""
        pages = 0
        while self.step():
            pages += 1
        return pages

    def verify(self) -> None:
        run_once(self.market.database.engine("fleet_webhooks"), 500)

    def deliveries(self) -> list[Any]:
        return self.market.execute("SELECT * FROM fleet.webhook_deliveries WHERE provider = :p ORDER BY id", p=PAYMENTS)

    def looks(self) -> list[Any]:
        return self.market.execute("SELECT * FROM fleet.chain_looks ORDER BY transaction_hash")

    def cursor(self) -> Any:
        (row,) = self.market.execute("SELECT * FROM fleet.reconciliation_cursors")
        return row


@pytest.fixture
def reconciler(database: Database) -> Iterator[Reconciler]:
    with running_api() as api:
        yield Reconciler(database, api)


def test_a_payment_whose_webhook_was_lost_is_looked_at(reconciler: Reconciler) -> None:
    """L20: what the API lists is a hint like a webhook: it asks for a look and credits nothing."""
    payment = reconciler.market.payment()
    listed = reconciler.lists(payment, request_extra=1)
    reconciler.run()
    (delivery,) = reconciler.deliveries()
    assert json.loads(bytes(delivery.body)) == listed
    assert reconciler.market.execute("SELECT count(*) AS n FROM fleet.outbox WHERE queue = 'webhooks'")[0].n == 1
    reconciler.verify()
    (delivery,) = reconciler.deliveries()
    assert (delivery.state, delivery.payment_id, delivery.event) == ("linked", payment, "payment.listed")
    (look,) = reconciler.looks()
    assert (look.chain_id, look.transaction_hash, look.payment_id) == (CHAIN_ID, HASH, payment)
    assert reconciler.market.state(payment) == ("pending", None)
    assert reconciler.market.entries(payment) == 0


def test_one_that_its_webhook_told_is_still_one_look(reconciler: Reconciler) -> None:
    payment = reconciler.market.payment()
    listed = reconciler.lists(payment)
    request = listed["request"]
    receive(
        reconciler.market,
        "request.network",
        body_of(paying_event(request["requestId"], request["paymentReference"], HASH)),
    )
    reconciler.run()
    reconciler.verify()
    assert len(reconciler.looks()) == 1


def test_windows_overlap_so_that_what_is_listed_late_is_found_and_nothing_is_journalled_twice(
    reconciler: Reconciler,
) -> None:
    first = reconciler.market.payment()
    reconciler.lists(first)
    reconciler.run()
    reconciler.now += timedelta(minutes=10)
    late = reconciler.market.payment()
    reconciler.lists(late, at=reconciler.now - OVERLAP, transaction_hash="0x" + "aa" * 32)
    assert reconciler.run() == len(KINDS)
    assert len(reconciler.deliveries()) == 2
    reconciler.verify()
    assert {row.payment_id for row in reconciler.deliveries()} == {first, late}


def test_only_what_decides_makes_it_news(reconciler: Reconciler) -> None:
    payment = reconciler.market.payment()
    listed = reconciler.lists(payment, transaction_hash=None, amountInUsd="99.9")
    reconciler.run()
    listed["amountInUsd"] = "98.7"  # a rate of the day
    reconciler.now += timedelta(minutes=5)
    reconciler.run()
    assert len(reconciler.deliveries()) == 1
    listed["destinationTxHash"] = HASH
    reconciler.now += timedelta(minutes=5)
    reconciler.run()
    reconciler.verify()
    assert [row.state for row in reconciler.deliveries()] == ["no_transaction", "linked"]


def test_every_page_of_every_kind_is_read(reconciler: Reconciler) -> None:
    for n in range(205):
        reconciler.lists(None, transaction_hash=f"0x{n:064x}", type=KINDS[n % 2])
    assert reconciler.run() == len(KINDS) + 2
    assert len(reconciler.deliveries()) == 205
    assert reconciler.cursor().reconciled_to == NOW


def test_the_first_run_looks_a_week_back(reconciler: Reconciler) -> None:
    reconciler.market.execute("DELETE FROM fleet.reconciliation_cursors")
    assert reconciler.step() == 1
    assert reconciler.cursor().window_from == NOW - FIRST_WINDOW - OVERLAP


def test_a_stop_goes_on_at_the_page_it_stood_at(reconciler: Reconciler) -> None:
    for n in range(250):
        reconciler.lists(None, transaction_hash=f"0x{n:064x}")
    assert [reconciler.step(), reconciler.step()] == [1, 1]
    assert len(reconciler.deliveries()) == 200
    reconciler.now += timedelta(hours=5)  # stopped meanwhile; the window stays the one it was
    assert reconciler.step() == 1
    assert len(reconciler.deliveries()) == 250
    assert [asked["offset"] for asked in reconciler.api.asked] == ["0", "100", "200"]
    assert len({asked["toDate"] for asked in reconciler.api.asked}) == 1


@pytest.mark.parametrize(
    "trouble",
    [answering(429), answering(500), answering(200, b"garbage"), hang_up],
    ids=["429", "500", "garbage", "cut"],
)
def test_an_api_that_is_away_loses_nothing_and_is_said(reconciler: Reconciler, trouble: Any) -> None:
    payment = reconciler.market.payment()
    reconciler.lists(payment)
    reconciler.api.next = [trouble, trouble]
    assert reconciler.step() == 0
    failing = reconciler.cursor()
    assert failing.last_error
    assert failing.failing_since is not None
    assert failing.reconciled_to == NOW - timedelta(hours=2)
    reconciler.api.next = [trouble, trouble]
    assert reconciler.step() == 0
    assert reconciler.cursor().failing_since == failing.failing_since
    reconciler.api.next = []
    assert reconciler.run() == len(KINDS)
    well = reconciler.cursor()
    assert (well.failing_since, well.last_error, well.reconciled_to) == (None, None, NOW)
    assert len(reconciler.deliveries()) == 1


def test_each_listed_payment_ends_in_its_own_state(reconciler: Reconciler) -> None:
    ours, other = reconciler.market.payment(), reconciler.market.payment()
    expected: dict[str, tuple[str, UUID | None]] = {
        reconciler.lists(None)["id"]: ("unknown_request", None),
        reconciler.lists(ours, destinationNetwork="base")["id"]: ("mismatched", ours),
        reconciler.lists(ours, transaction_hash=None)["id"]: ("no_transaction", ours),
        reconciler.lists(ours, transaction_hash="0x12")["id"]: ("malformed", None),
        reconciler.lists(ours, request="nonsense")["id"]: ("malformed", None),
        # The payer's half of a bridge is on another chain: nothing of ours is there.
        reconciler.lists(
            other, type="crosschain", sourceNetwork="base", destinationTxHash=None, sourceTxHash="0x" + "ab" * 32
        )["id"]: ("no_transaction", other),
        reconciler.lists(other, type="crosschain", sourceNetwork="base", sourceTxHash="0x" + "ab" * 32)["id"]: (
            "linked",
            other,
        ),
        reconciler.lists(other, destinationTxHash=None, sourceTxHash="0x" + "cd" * 32)["id"]: ("linked", other),
    }
    reconciler.run()
    reconciler.verify()
    found = {json.loads(bytes(row.body))["id"]: row for row in reconciler.deliveries()}
    assert {name: (row.state, row.payment_id) for name, row in found.items()} == expected
    assert [look.transaction_hash for look in reconciler.looks()] == ["0x" + "cd" * 32, HASH]


def test_two_workers_journal_a_page_once(reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the cursor moved on, and what it read is journalled already."""
    reconciler.lists(None)
    read = reconciler.client.page
    inner: list[int] = []

    def page(*asked: Any) -> Any:
        found = read(*asked)
        if not inner:
            inner.append(-1)
            inner.append(reconciler.step())
        return found

    monkeypatch.setattr(reconciler.client, "page", page)
    assert reconciler.step() == 0
    assert inner == [-1, 1]
    assert len(reconciler.deliveries()) == 1
    assert reconciler.cursor().version == 1


def test_a_window_after_a_long_stop_is_a_day_at_most_and_the_youngest_minute_is_left_alone(
    reconciler: Reconciler,
) -> None:
    begun = NOW - timedelta(days=2, hours=3)
    reconciler.begin(begun)
    reconciler.run()
    windows = sorted({(asked["fromDate"], asked["toDate"]) for asked in reconciler.api.asked})
    read = [tuple(datetime.fromisoformat(end) for end in window) for window in windows]
    assert read == [
        (begun - OVERLAP, begun + WINDOW_MAXIMUM),
        (begun + WINDOW_MAXIMUM - OVERLAP, begun + 2 * WINDOW_MAXIMUM),
        (begun + 2 * WINDOW_MAXIMUM - OVERLAP, NOW),
    ]
    reconciler.now += RECENT - timedelta(seconds=1)
    assert reconciler.step() == 0
    reconciler.now += timedelta(seconds=1)
    assert reconciler.step() == 1


def test_an_api_that_never_ends_is_stopped_and_shown(reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "OFFSET_LIMIT", 150)
    for n in range(400):
        reconciler.lists(None, transaction_hash=f"0x{n:064x}")
    reconciler.run()
    assert "more than 150 payments" in reconciler.cursor().last_error
    assert len(reconciler.deliveries()) == 200


def test_it_is_off_without_key_and_address_and_half_a_setting_is_refused(
    reconciler: Reconciler, tmp_path: Path
) -> None:
    engine = reconciler.market.database.engine("fleet_housekeeping")
    assert build_reconciliation(engine, load_settings())() == 0
    assert reconciler.cursor().version == 0
    key = write_secrets(tmp_path / "key", KEY)
    with pytest.raises(SettingsError, match="REQUEST_NETWORK_API_URL is not set"):
        build_reconciliation(engine, load_settings(request_network_api_key_file=key))
    with pytest.raises(SettingsError, match="REQUEST_NETWORK_API_KEY_FILE is not set"):
        build_reconciliation(engine, load_settings(request_network_api_url=reconciler.api.url))
    step = build_reconciliation(
        engine,
        load_settings(
            request_network_api_url=reconciler.api.url,
            request_network_api_key_file=key,
            request_network_api_interval_seconds=0.2,
        ),
    )
    assert step() == 1
    assert reconciler.api.asked[0]["type"] == KINDS[0]


def test_its_own_schedule_rings_it_and_no_other_ring_does(
    reconciler: Reconciler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler.begin(datetime.now(UTC) - timedelta(hours=1))
    for name, value in (
        ("DATABASE_URL", reconciler.market.database.url("fleet_housekeeping")),
        ("REQUEST_NETWORK_API_URL", reconciler.api.url),
        ("REQUEST_NETWORK_API_KEY_FILE", str(write_secrets(tmp_path / "key", KEY))),
        ("REQUEST_NETWORK_API_INTERVAL_SECONDS", "0.2"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(housekeeping, "_door", Door("housekeeping", housekeeping.build))
    monkeypatch.setattr(housekeeping, "_reconciliation", Door("housekeeping", build_reconciliation))
    environment.settings.cache_clear()
    try:
        housekeeping.tidy_up()
        housekeeping.tidy_up("housekeeping", 60)
        assert reconciler.api.asked == []
        assert housekeeping.tidy_up(PAYMENTS_SCHEDULE, 120) == len(KINDS)
        assert [asked["type"] for asked in reconciler.api.asked] == list(KINDS)
    finally:
        doors.close_engines()
        environment.settings.cache_clear()


def test_housekeeping_may_journal_hints_and_nothing_more(reconciler: Reconciler) -> None:
    """R9: it cannot say what became of a delivery, nor ask for a look itself."""
    from sqlalchemy.exc import DBAPIError

    engine = reconciler.market.database.engine("fleet_housekeeping")
    for statement in (
        "UPDATE fleet.webhook_deliveries SET state = 'linked'",
        "DELETE FROM fleet.webhook_deliveries",
        "INSERT INTO fleet.chain_looks (chain_id, transaction_hash, requested_by) VALUES (1, '0x', 'me')",
        "DELETE FROM fleet.reconciliation_cursors",
    ):
        with pytest.raises(DBAPIError, match="permission denied"), engine.connect() as connection:
            connection.execute(text(statement))
