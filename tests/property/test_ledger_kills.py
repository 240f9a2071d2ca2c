"""Thirty-two clients on eight books while backends are killed at random: nothing is lost, nothing doubled."""

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from custody.ledger import Entry, Posted, post, post_batch
from custody.store.engine import open_engine, transaction
from custody.store.outbox import ask_for_entries
from tests.conftest import Database
from tests.counts import Counts, declared
from tests.ledger_book import Book, book_of, check_book, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

CLIENTS: Final = 32
BOOKS: Final = 8
UNIT: Final = Decimal("0.000001")


class _Client:
    """Posts holds of one unit, alone or in batches, again and again until each is answered."""

    def __init__(self, engine: Engine, books: list[Book], seed: int) -> None:
        self.engine = engine
        self.books = books
        self.random = random.Random(seed)
        self.answered: dict[str, UUID] = {}
        self.interrupted = 0

    def some(self) -> None:
        size = self.random.choice([1, 1, 1, 5, 20])
        entries = [self._hold(self.random.choice(self.books)) for _ in range(size)]
        while True:
            try:
                if size == 1:
                    with transaction(self.engine) as connection:
                        outcomes = [post(connection, entries[0])]
                else:
                    outcomes = post_batch(self.engine, entries)
            except OperationalError:  # killed, before or after it had committed; or at the door
                self.interrupted += 1
                continue
            for entry, outcome in zip(entries, outcomes, strict=True):
                assert isinstance(outcome, Posted), outcome
                self.answered[entry.key] = outcome.entry_id
            return

    def _hold(self, book: Book) -> Entry:
        return Entry(
            book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="hold", reason="deep",
            debit="detected", credit="held", amount=UNIT, fact_id=book.inbound[0], key=f"kill:{uuid4()}",
        )  # fmt: skip


def _kill_until(engine: Engine, enough: int, done: threading.Event, killed: list[int]) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not done.wait(0.02):
            found = connection.execute(
                text(
                    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fleet_confirmations' "
                    "AND datname = current_database() AND state <> 'idle' ORDER BY random() LIMIT 1"
                )
            ).all()
            killed += [row.pid for row in found]
            if len(killed) >= enough:
                return


def test_killed_backends_lose_and_double_nothing(database: Database, counts: Counts) -> None:
    enough = declared(400, 20)
    market = Marketplace(database)
    books = [book_of(market) for _ in range(BOOKS)]
    for book in books:
        move(book, "seen", Decimal(100), 0)
    engine = open_engine(database.url("fleet_confirmations"), application="test-killed", pool_size=CLIENTS)
    clients = [_Client(engine, books, seed) for seed in range(CLIENTS)]
    killed: list[int] = []
    done = threading.Event()
    killer = threading.Thread(target=_kill_until, args=(database.engine(), enough, done, killed))
    killer.start()

    def run(client: _Client) -> None:
        client.some()
        while killer.is_alive():
            client.some()

    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(run, clients))
    finally:
        done.set()
        killer.join(30)
        engine.dispose()
    answered = {key: entry for client in clients for key, entry in client.answered.items()}
    held = [check_book(market, book.payment).get("held", Decimal(0)) for book in books]
    rows = market.execute("SELECT id, idempotency_key FROM public.funds_ledger_entries WHERE reason = 'deep'")
    assert {row.idempotency_key: row.id for row in rows} == answered
    assert len(rows) == len(answered)
    assert sum(held) == len(answered) * UNIT
    while True:  # in windows smaller than what there is
        with transaction(database.engine("fleet_relay")) as connection:
            if not ask_for_entries(connection, 50):
                break
    mirrored = market.execute("SELECT count(*) AS n, count(DISTINCT document_id) AS d FROM fleet.outbox")[0]
    assert mirrored.n == mirrored.d == len(answered) + BOOKS
    interrupted = sum(client.interrupted for client in clients)
    sys.stdout.write(f"{len(killed)} backends killed, {interrupted} attempts cut off, {len(answered)} entries\n")
    assert len(killed) >= enough
    assert interrupted > 0
    counts("ledger backends killed under 32 clients", len(killed))
