"""Random legal and illegal posts over a real PostgreSQL: what must hold of every book after each of them.

FLEET_TEST_COUNTS=full runs the declared count (L23).
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from custody.ledger import (
    Entry,
    EntryMalformed,
    KeyUsedForOtherContent,
    LedgerRefusal,
    MovementNotAllowed,
    post,
)
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import FULL, Counts, declared
from tests.ledger_book import DESTINATION, MOVEMENTS, TREASURY, Book, book_of, check_book, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

EXAMPLES: Final = declared(5_000, 15)


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


# Steps -------------------------------------------------------------------------------------------------------------


def repeat(book: Book, amount: Decimal, pick: int) -> None:
    """The same entry again adds nothing; its key with another amount is an error."""
    if not book.posted:
        return
    poster, entry, entry_id = book.posted[pick % len(book.posted)]
    engine = book.market.database.engine(poster)
    with transaction(engine) as connection:
        assert post(connection, entry) == (entry_id, False)
    changed = replace(entry, amount=entry.amount + 1)
    with pytest.raises(KeyUsedForOtherContent, match=str(entry_id)), transaction(engine) as connection:
        post(connection, changed)


def dispute(book: Book, amount: Decimal, pick: int) -> None:
    if book.posted:
        book.dispute_open = pick % 2
        book.market.set_dispute(book.payment, book.dispute_open)


REVERSIBLE: Final = {("seen",), ("deep",), ("surplus",), ("sweep",)}


def take_back(book: Book, amount: Decimal, pick: int) -> None:
    """A fact dies and one of its entries is reversed; then never again."""
    candidates = [
        (entry, entry_id)
        for _, entry, entry_id in book.posted
        if (entry.reason,) in REVERSIBLE and entry_id not in book.taken_back and entry.fact_id not in book.sweep_facts
    ]
    if not candidates:
        return
    entry, entry_id = candidates[pick % len(candidates)]
    assert entry.fact_id is not None
    reverse = Entry(
        book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
        reason="reorg", debit=entry.credit, credit=entry.debit, amount=entry.amount, key=f"reverse:{entry_id}",
        debit_address=entry.credit_address, credit_address=entry.debit_address, fact_id=entry.fact_id,
        reverses_entry_id=entry_id,
    )  # fmt: skip
    if entry.fact_id not in book.dead:
        book.post("fleet_watcher", reverse)  # refused: the fact lives
        book.market.kill_fact(entry.fact_id)
        book.dead.add(entry.fact_id)
    book.post("fleet_watcher", reverse)
    if book.posted[-1][1] is reverse:
        book.taken_back.add(entry_id)
        again = replace(reverse, key=f"second:{secrets.token_hex(4)}")
        with (
            pytest.raises(MovementNotAllowed, match="not reversed yet"),
            transaction(book.market.database.engine("fleet_watcher")) as connection,
        ):
            post(connection, again)


def nonsense(book: Book, amount: Decimal, pick: int) -> None:
    """Amounts that are none, more decimals than the token has, roles and movements that do not fit."""
    cases: tuple[tuple[Callable[[], tuple[str, Entry]], type[LedgerRefusal]], ...] = (
        (lambda: book.entry("reserve", Decimal("NaN")), EntryMalformed),
        (lambda: book.entry("reserve", Decimal("Infinity")), EntryMalformed),
        (lambda: book.entry("reserve", Decimal(0)), EntryMalformed),
        (lambda: book.entry("reserve", -amount), EntryMalformed),
        (lambda: book.entry("reserve", amount + Decimal("0.0000001")), EntryMalformed),
        (lambda: book.entry("sweep", Decimal(10) ** 30), EntryMalformed),
        (lambda: ("fleet_watcher", book.entry("reserve", amount)[1]), MovementNotAllowed),
        (lambda: ("fleet_sweeps", book.entry("final", amount)[1]), MovementNotAllowed),
    )
    made, refusal = cases[pick % len(cases)]
    poster, entry = made()
    with pytest.raises(refusal), transaction(book.market.database.engine(poster)) as connection:
        post(connection, entry)


OTHERS: Final[dict[str, Callable[[Book, Decimal, int], None]]] = {
    "repeat": repeat,
    "dispute_state": dispute,
    "take_back": take_back,
    "nonsense": nonsense,
}
AMOUNTS = st.integers(1, 200_000_000).map(lambda units: Decimal(units) / 10**6) | st.sampled_from(
    [Decimal(100), Decimal("0.000001")]
)
STEPS = st.tuples(
    st.sampled_from([*MOVEMENTS, "seen", "deep", "sweep", "reserve", *OTHERS]), AMOUNTS, st.integers(0, 63)
)
# Most random walks end at once where nothing is left to move; these lead into each room of the book.
OPENINGS = st.sampled_from(
    [(), ("seen",), ("seen", "deep"), ("seen", "deep", "sweep"), ("seen", "deep", "sweep", "reserve")]
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(opening=OPENINGS, steps=st.lists(STEPS, max_size=12))
def test_a_book_stays_whole_through_any_sequence(
    market: Marketplace, counts: Counts, opening: Sequence[str], steps: Sequence[tuple[str, Decimal, int]]
) -> None:
    counts("random sequences of posts", EXAMPLES)
    book = book_of(market)
    for movement in opening:
        move(book, movement, Decimal(100), 0)
    assert book.outcomes.total() == book.outcomes["posted"] == len(opening)
    for name, amount, pick in steps:
        if name in MOVEMENTS:
            move(book, name, amount, pick)
        else:
            OTHERS[name](book, amount, pick)
        balances = check_book(market, book.payment)
        assert {k: v for k, v in balances.items() if v} == {k: v for k, v in book.balances.items() if v}
        assert market.entries(book.payment) == len(book.posted)


# Reversals ---------------------------------------------------------------------------------------------------------


def test_a_dead_fact_takes_back_no_entry_of_a_live_one(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    _, live_entry, live_id = book.posted[-1]
    other = market.fact(book.payment)
    market.kill_fact(other)
    for fact_id in (other, live_entry.fact_id):  # another entry's dead one; the entry's own, alive
        reverse = Entry(
            book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
            reason="reorg", debit="detected", credit="destination", amount=Decimal(100), key=f"reverse:{live_id}",
            credit_address=DESTINATION, reverses_entry_id=live_id, fact_id=fact_id,
        )  # fmt: skip
        with (
            pytest.raises(MovementNotAllowed),
            transaction(market.database.engine("fleet_watcher")) as connection,
        ):
            post(connection, reverse)


def test_a_reversal_takes_the_coins_from_the_address_they_were_booked_at(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    _, entry, entry_id = book.posted[-1]
    assert entry.fact_id is not None
    market.kill_fact(entry.fact_id)
    engine = market.database.engine("fleet_watcher")
    for address, is_refused in ((TREASURY, True), (DESTINATION, False)):
        reverse = Entry(
            book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
            reason="reorg", debit="detected", credit="destination", amount=Decimal(100), key=f"reverse:{entry_id}",
            credit_address=address, reverses_entry_id=entry_id, fact_id=entry.fact_id,
        )  # fmt: skip
        if is_refused:
            with pytest.raises(MovementNotAllowed, match="exact reverse"), transaction(engine) as connection:
                post(connection, reverse)
        else:
            with transaction(engine) as connection:
                assert post(connection, reverse).is_new
    assert check_book(market, book.payment)["detected"] == 0


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_the_database_itself_refuses_an_amount_that_is_no_number(market: Marketplace, amount: str) -> None:
    book = book_of(market)
    fact = market.fact(book.payment)
    with (
        pytest.raises(DBAPIError, match="must be above zero"),
        transaction(market.database.engine("fleet_watcher")) as connection,
    ):
        connection.execute(
            text(
                "SELECT fleet.post_entry('payment', :book, :chain, :token, 'payment_detected', 'seen', 'destination', "
                "'detected', CAST(:amount AS numeric), 'key', :address, NULL, :fact)"
            ),
            {
                "book": book.payment,
                "chain": CHAIN_ID,
                "token": TOKEN,
                "amount": amount,
                "address": DESTINATION,
                "fact": fact,
            },
        )
    assert check_book(market, book.payment) == {}
