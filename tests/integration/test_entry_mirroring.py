"""The mirror follows the ledger: each entry is asked for once, none is passed over, and a look costs nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from custody.ledger import Entry, Posted, post, post_together
from custody.store.engine import transaction
from custody.store.outbox import ask_for_entries
from tasks import housekeeping
from tests.conftest import Database
from tests.ledger_book import Book, book_of
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from workers.relay import relay_once

ADDRESS = "0x" + "11" * 20


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def seen(market: Marketplace, book: Book) -> Entry:
    return Entry(
        book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="payment_detected",
        reason="seen", debit="destination", credit="detected", amount=Decimal("0.000001"), key=str(uuid4()),
        debit_address=ADDRESS, fact_id=market.fact(book.payment, 1),
    )  # fmt: skip


def posted(market: Marketplace, number: int) -> list[UUID]:
    """Entries of one transaction, in the order of their ids."""
    entries = [seen(market, book_of(market)) for _ in range(number)]
    with transaction(market.database.engine("fleet_watcher")) as connection:
        return sorted(one.entry_id for one in post_together(connection, entries))


def ask(database: Database, limit: int = 100, role: str = "fleet_relay") -> int:
    with transaction(database.engine(role)) as connection:
        return ask_for_entries(connection, limit)


def asked(market: Marketplace) -> list[UUID]:
    rows = market.execute(
        "SELECT document_id FROM fleet.outbox WHERE queue = 'mirror' AND collection = 'fundsledgerentries' ORDER BY id"
    )
    return [row.document_id for row in rows]


def test_each_entry_is_asked_for_once(database: Database, market: Marketplace) -> None:
    first = [*posted(market, 1), *posted(market, 3)]
    assert asked(market) == []
    assert ask(database) == 4
    assert asked(market) == first
    assert ask(database) == 0
    second = posted(market, 2)
    assert ask(database, role="fleet_mirror") == 2
    assert asked(market) == first + second


@pytest.mark.parametrize("ends", [Connection.commit, Connection.rollback])
def test_a_transaction_that_ends_late_is_not_passed_over(
    database: Database, market: Marketplace, ends: Callable[[Connection], None]
) -> None:
    slow, quick = seen(market, book_of(market)), seen(market, book_of(market))
    with database.engine("fleet_watcher").connect() as late:
        held: Posted = post(late, slow)
        with transaction(database.engine("fleet_watcher")) as connection:
            free = post(connection, quick)
        assert ask(database) == 0
        ends(late)
    expected = [held.entry_id, free.entry_id] if ends is Connection.commit else [free.entry_id]
    assert ask(database) == len(expected)
    assert asked(market) == expected
    assert ask(database) == 0


def test_a_limit_cuts_between_transactions_only(database: Database, market: Marketplace) -> None:
    groups = [posted(market, 3), posted(market, 1), posted(market, 2), posted(market, 1)]
    assert ask(database, 2) == 3  # more than the limit, in one transaction
    assert asked(market) == groups[0]
    assert ask(database, 3) == 3
    assert ask(database, 3) == 1
    assert asked(market) == [entry for group in groups for entry in group]
    assert ask(database, 3) == 0


def test_a_look_that_finds_nothing_writes_nothing(database: Database, market: Marketplace) -> None:
    posted(market, 1)
    for expected, writes in ((1, True), (0, False)):
        with transaction(database.engine("fleet_relay")) as connection:
            assert ask_for_entries(connection, 100) == expected
            wrote = connection.execute(text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")).scalar_one()
            assert wrote is writes
            scans = connection.execute(
                text("SELECT seq_scan FROM pg_stat_xact_all_tables WHERE relname = 'funds_ledger_entries'")
            ).scalar_one()
            assert scans == 0


def test_of_two_at_once_one_asks_and_a_crash_loses_nothing(database: Database, market: Marketplace) -> None:
    entries = posted(market, 2)
    with database.engine("fleet_relay").connect() as crashing:
        assert ask_for_entries(crashing, 100) == 2
        assert ask(database, role="fleet_mirror") == 0
        crashing.rollback()
    assert asked(market) == []
    assert ask(database) == 2
    assert asked(market) == entries


def test_nobody_else_may_ask_and_nobody_moves_the_cursor(database: Database, market: Marketplace) -> None:
    posted(market, 1)
    with pytest.raises(ProgrammingError, match="permission denied"):
        ask(database, role="fleet_watcher")
    for role in ("fleet_relay", "fleet_mirror", "fleet_operator"):
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            transaction(database.engine(role)) as connection,
        ):
            connection.execute(text("UPDATE fleet.mirror_cursor SET next_tx = next_tx + 1000"))
    assert ask(database) == 1


class Bell:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, names: list[str]) -> None:
        self.rung += names


def test_the_relay_rings_for_an_entry(database: Database, market: Marketplace) -> None:
    posted(market, 2)
    bell = Bell()
    assert relay_once(database.engine("fleet_relay"), bell) == 2  # pyright: ignore[reportArgumentType]
    assert bell.rung == ["mirror"]
    assert relay_once(database.engine("fleet_relay"), bell) == 0  # pyright: ignore[reportArgumentType]


def test_housekeeping_says_when_nobody_asks(database: Database, market: Marketplace) -> None:
    posted(market, 1)
    structlog.reset_defaults()

    def said(after: timedelta) -> bool:
        with capture_logs() as logs:
            housekeeping.tidy(database.engine("fleet_housekeeping"), datetime.now(UTC) + after)
        return "outbox_not_rung" in [entry["event"] for entry in logs]

    assert not said(timedelta())
    assert said(timedelta(minutes=5))
    ask(database)
    market.execute("UPDATE fleet.outbox SET rung_at = now()")
    assert not said(timedelta(minutes=5))
