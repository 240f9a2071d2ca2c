"""Eight clients on one book of a real PostgreSQL lose and double nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final

import pytest

from custody.ledger import (
    BookTooSmall,
    post,
)
from custody.store.engine import transaction
from tests.conftest import Database
from tests.ledger_book import book_of, check_book, move
from tests.marketplace import Marketplace

CLIENTS: Final = 8


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


# Concurrency -------------------------------------------------------------------------------------------------------


def at_once(run: Callable[[int], Any]) -> list[Any]:
    """``run`` in CLIENTS threads, started together."""
    gate = threading.Barrier(CLIENTS)

    def start(number: int) -> Any:
        gate.wait(30)
        return run(number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(start, range(CLIENTS)))


def test_clients_that_all_post_the_same_facts_write_each_once(market: Marketplace) -> None:
    book = book_of(market)
    entries = [
        book.entry("seen", Decimal(number), fact=market.fact(book.payment))[1] for number in range(1, 13)
    ]  # fmt: skip
    engine = market.database.engine("fleet_watcher")

    def run(client: int) -> int:
        new = 0
        for place in range(len(entries)):
            with transaction(engine) as connection:
                new += post(connection, entries[(place + client * 5) % len(entries)]).is_new
        return new

    assert sum(at_once(run)) == len(entries)
    assert check_book(market, book.payment)["detected"] == sum(range(1, 13))


def test_clients_that_compete_for_a_treasury_promise_it_once(market: Marketplace) -> None:
    book = book_of(market)
    for movement in ("seen", "deep", "sweep"):
        move(book, movement, Decimal(100), 0)
    engine = market.database.engine("fleet_releases")

    def run(client: int) -> bool:
        try:
            with transaction(engine) as connection:
                return post(connection, book.entry("reserve", Decimal(30))[1]).is_new
        except BookTooSmall:
            return False

    assert at_once(run).count(True) == 3
    balances = check_book(market, book.payment)
    assert (balances["releasing"], balances["held"], balances["treasury"]) == (90, 10, 100)


def test_clients_with_facts_of_their_own_lose_nothing(market: Marketplace) -> None:
    book = book_of(market)
    facts = [[market.fact(book.payment) for _ in range(5)] for _ in range(CLIENTS)]
    watcher, confirmations = (market.database.engine(role) for role in ("fleet_watcher", "fleet_confirmations"))

    def run(client: int) -> None:
        for fact in facts[client]:
            with transaction(watcher) as connection:
                post(connection, book.entry("seen", Decimal(7), fact=fact)[1])
            with transaction(confirmations) as connection:
                post(connection, book.entry("deep", Decimal(7), fact=fact)[1])

    at_once(run)
    balances = check_book(market, book.payment)
    assert balances["held"] == balances["destination"] == CLIENTS * 5 * 7
    assert market.entries(book.payment) == CLIENTS * 5 * 2
