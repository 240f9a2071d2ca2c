"""Seals on a real PostgreSQL: only finished transactions, never a lock that an append wants, chained and signed."""

import threading
from decimal import Decimal
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from custody.ledger import post
from custody.ledger.canonical import ENTRY_FIELDS, read_entries
from custody.ledger.merkle import root
from custody.ledger.seal_lag import SEAL_LAG_ALARM_SECONDS
from custody.ledger.seals import SealsAhead, read_window, seal_next
from custody.store.engine import TRANSACTION_TIMEOUT_MS, sqlstate, transaction
from tests.conftest import Database
from tests.ledger_book import book_of, check_book, move
from tests.marketplace import Marketplace
from tests.sealed_ledger import keys_of, new_key, seal_all, seal_to_the_end, sealed_ledger, verified


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def test_the_hashes_made_in_python_are_those_of_post_entry(database: Database) -> None:
    sealed_ledger(database, payments=2)
    with database.engine().connect() as connection:
        rows = list(read_entries(connection, sql.SQL("ORDER BY book_id, book_seq")))
    assert len(rows) > 20
    for row in rows:
        content = row.content_hash()
        assert content.hex() == row.text("content_hash")
        previous = bytes.fromhex(row.text("prev_hash") or "")
        assert row.entry_hash(previous, content).hex() == row.text("entry_hash")
    assert len({row.leaf() for row in rows}) == len(rows)


def test_every_column_of_an_entry_is_under_the_seal(market: Marketplace) -> None:
    columns = market.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'public.funds_ledger_entries'::regclass AND attnum > 0 "
        "AND NOT attisdropped"
    )
    assert {row.attname for row in columns} == set(ENTRY_FIELDS)


def test_windows_follow_each_other_and_hold_every_entry_once(database: Database) -> None:
    ledger = sealed_ledger(database, payments=4)
    assert len(ledger.seals) > 5
    begins, seen = 0, 0
    for seal in ledger.seals:
        assert seal.from_tx == begins
        begins = seal.to_tx
        with database.engine().connect() as connection:
            rows = list(read_window(connection, seal.from_tx, seal.to_tx))
        assert root([row.leaf() for row in rows]) == seal.merkle_root
        assert len(rows) == seal.entries
        seen += len(rows)
    assert seen == len(ledger.entries())
    report = verified(database, ledger.keys, held=ledger.seals)
    assert (report.problems, report.sealed_entries, report.unsealed_entries) == ([], seen, 0)


def test_a_window_is_in_the_order_of_its_transactions_as_numbers(database: Database, market: Marketplace) -> None:
    for _ in range(4):
        move(book_of(market), "seen", Decimal(1), 0)
    with database.engine().begin() as connection:
        connection.execute(text("ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER ALL"))
        connection.execute(
            text(
                "UPDATE public.funds_ledger_entries e SET tx_id = (ARRAY[1000, 999, 10, 9])[n.n] "
                "FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM public.funds_ledger_entries) n WHERE n.id = e.id"
            )
        )
        assert [row.tx_id for row in read_window(connection, 0, 2000)] == [9, 10, 999, 1000]
        assert [row.tx_id for row in read_window(connection, 10, 1000)] == [10, 999]


def test_only_what_came_after_a_seal_is_read_from_it_on(database: Database) -> None:
    ledger = sealed_ledger(database, payments=3)
    book = book_of(ledger.books[0].market)
    move(book, "seen", Decimal(5), 0)
    seals = seal_to_the_end(database, ledger.key)
    report = verified(database, ledger.keys, since=ledger.seals[-1])
    assert report.problems == []
    assert (report.entries, report.books, report.seals) == (1, 1, len(seals))
    with database.engine().begin() as connection:
        connection.execute(text("ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER ALL"))
        connection.execute(
            text("UPDATE public.funds_ledger_entries SET amount = 6 WHERE book_id = :b"), {"b": book.payment}
        )
    assert verified(database, ledger.keys, since=ledger.seals[-1]).problem_count >= 3


def test_appends_go_on_while_a_seal_is_made(database: Database, market: Marketplace) -> None:
    book = book_of(market)
    key = new_key()
    move(book, "seen", Decimal(1), 0)
    seal_to_the_end(database, key)
    move(book, "seen", Decimal(1), 0)
    with transaction(database.engine("fleet_sealer")) as connection:
        first = Retrying(
            stop=stop_after_delay(20), wait=wait_fixed(0.02), retry=retry_if_result(lambda seal: seal is None)
        )(seal_next, connection, key)
        # The seal is not committed yet: an append to the same book neither waits nor fails.
        with transaction(database.engine("fleet_watcher")) as writer:
            writer.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
            entry = book.entry("seen", Decimal(2), fact=market.fact(book.payment))[1]
            assert post(writer, entry).is_new
        # Nor does a second sealer wait: it leaves the window to the first.
        with transaction(database.engine()) as other:
            assert seal_next(other, key) is None
    assert first is not None
    assert first.entries == 1
    assert sum(seal.entries for seal in seal_to_the_end(database, key)) == 1
    assert verified(database, keys_of(key)).ok


def test_a_long_writer_delays_the_seal_and_loses_nothing(database: Database, market: Marketplace) -> None:
    book, other = book_of(market), book_of(market)
    key = new_key()
    facts = [market.fact(each.payment) for each in (book, other)]
    with transaction(database.engine("fleet_watcher")) as slow:
        post(slow, book.entry("seen", Decimal(1), fact=facts[0])[1])
        with transaction(database.engine("fleet_watcher")) as quick:
            post(quick, other.entry("seen", Decimal(2), fact=facts[1])[1])
        # The later transaction is committed, but the earlier one may still write below it.
        assert seal_all(database, key) == []
    assert sum(seal.entries for seal in seal_to_the_end(database, key)) == 2
    assert verified(database, keys_of(key)).ok


def test_sealing_under_load_covers_every_entry(database: Database, market: Marketplace) -> None:
    books = [book_of(market) for _ in range(4)]
    facts = [[market.fact(book.payment) for _ in range(15)] for book in books]
    engine, key = database.engine("fleet_watcher"), new_key()
    done = threading.Event()

    def write(number: int) -> None:
        for fact in facts[number]:
            with transaction(engine) as connection:
                post(connection, books[number].entry("seen", Decimal(1), fact=fact)[1])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(len(books))]
    seals: list[Any] = []

    def seal() -> None:
        while not done.is_set():
            seals.extend(seal_all(database, key, limit=7))

    sealer = threading.Thread(target=seal)
    for thread in (*writers, sealer):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    sealer.join(60)
    seals += seal_to_the_end(database, key)
    assert sum(each.entries for each in seals) == 60
    report = verified(database, keys_of(key))
    assert (report.problems, report.sealed_entries) == ([], 60)
    for book in books:
        check_book(market, book.payment)


def test_one_transaction_is_never_split_and_a_big_one_is_sealed_whole(database: Database, market: Marketplace) -> None:
    book, key = book_of(market), new_key()
    facts = [market.fact(book.payment) for _ in range(6)]
    with transaction(database.engine("fleet_watcher")) as connection:
        for fact in facts:
            post(connection, book.entry("seen", Decimal(1), fact=fact)[1])
    move(book, "seen", Decimal(1), 0)
    assert [seal.entries for seal in seal_to_the_end(database, key, limit=3)] == [6, 1]
    assert verified(database, keys_of(key)).ok


def test_entries_of_before_the_fleet_are_under_the_first_seal(database: Database, market: Marketplace) -> None:
    for number in range(3):
        market.execute(
            "INSERT INTO public.funds_ledger_entries (entry_type, amount, currency, legacy_object_id) "
            "VALUES ('hold', 5, 'USDC', :legacy)",
            legacy=f"{number:024}",
        )
    move(book_of(market), "seen", Decimal(1), 0)
    key = new_key()
    assert sum(seal.entries for seal in seal_to_the_end(database, key)) == 4
    report = verified(database, keys_of(key))
    assert (report.problems, report.before_fleet, report.entries) == ([], 3, 1)
    with database.engine().begin() as connection:
        connection.execute(text("ALTER TABLE public.funds_ledger_entries DISABLE TRIGGER ALL"))
        connection.execute(text("UPDATE public.funds_ledger_entries SET currency = 'USDT' WHERE book_id IS NULL"))
    assert verified(database, keys_of(key)).problem_count >= 3


def test_a_seal_is_never_changed(database: Database) -> None:
    sealed_ledger(database, payments=1)
    for statement in (
        "UPDATE fleet.ledger_seals SET entries = 1",
        "DELETE FROM fleet.ledger_seals",
        "TRUNCATE fleet.ledger_seals",
    ):
        with database.engine().connect() as connection:
            connection.exec_driver_sql("SET session_replication_role = replica")
            with pytest.raises(DBAPIError) as caught:
                connection.exec_driver_sql(statement)
            connection.invalidate()
        assert sqlstate(caught.value) == "23001"
    with database.engine("fleet_watcher").connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.exec_driver_sql("SELECT 1 FROM fleet.ledger_seals")
    assert sqlstate(caught.value) == "42501"


def test_a_database_restored_into_a_younger_server_is_not_sealed(database: Database, market: Marketplace) -> None:
    move(book_of(market), "seen", Decimal(1), 0)
    key = new_key()
    seal_to_the_end(database, key)
    with database.engine().begin() as connection:
        connection.exec_driver_sql("ALTER TABLE fleet.ledger_seals DISABLE TRIGGER ALL")
        connection.exec_driver_sql("UPDATE fleet.ledger_seals SET to_tx = to_tx + 1000000000")
    with pytest.raises(SealsAhead, match="pg_resetwal"):
        seal_all(database, key)


def test_wrong_public_key_and_no_key_at_all(database: Database) -> None:
    ledger = sealed_ledger(database, payments=1)
    for keys in (keys_of(new_key()), {}):
        report = verified(database, keys)
        assert report.problem_count == len(ledger.seals)
        assert all("none of yours" in problem.what for problem in report.problems)
    # After a rotation both keys are given.
    newer = new_key()
    move(ledger.books[0], "seen", Decimal(1), 0)
    seal_to_the_end(database, newer)
    assert verified(database, keys_of(ledger.key, newer)).ok
    assert not verified(database, keys_of(newer)).ok


def test_late_means_longer_than_any_transaction_of_the_fleet_may_take() -> None:
    assert SEAL_LAG_ALARM_SECONDS * 1000 > TRANSACTION_TIMEOUT_MS
