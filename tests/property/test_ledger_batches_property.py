"""Random batches, legal and illegal, over two books: post_batch does what posting one by one would (L1, L3, L4, L17)."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from custody.ledger import Entry, LedgerRefusal, Posted, post_batch
from tests.conftest import Database
from tests.counts import FULL, declared
from tests.ledger_book import MOVEMENTS, Book, book_of, check_book, move
from tests.marketplace import Marketplace

EXAMPLES: Final = declared(300, 6)

POSTERS: Final = sorted({movement[0] for movement in MOVEMENTS.values()})


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


AMOUNTS = st.integers(1, 120_000_000).map(lambda units: Decimal(units) / 10**6) | st.sampled_from(
    [Decimal(100), Decimal(40), Decimal("0.000001"), Decimal("0.0000001"), Decimal(0)]
)
# movement, amount, book, and one in four a repeat of what came before
PLACES = st.tuples(st.integers(0, 15), AMOUNTS, st.integers(0, 1), st.integers(0, 3))
BATCHES = st.lists(st.tuples(st.sampled_from(POSTERS), st.lists(PLACES, min_size=1, max_size=12)), max_size=5)


def _entry(book: Book, movement: str, amount: Decimal, pick: int) -> Entry:
    more: dict[str, Any] = {}
    if MOVEMENTS[movement][-1] == "inbound":
        if movement == "seen" or not book.inbound:
            book.inbound.append(book.market.fact(book.payment))
        more["fact"] = book.inbound[-1 if movement == "seen" else pick % len(book.inbound)]
    return book.entry(movement, amount, **more)[1]


def _is_amount(amount: Decimal) -> bool:
    return amount > 0 and amount == round(amount, 6)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=BATCHES)
def test_batches_do_what_one_post_after_the_other_would(
    market: Marketplace, batches: Sequence[tuple[str, list[tuple[int, Decimal, int, int]]]]
) -> None:
    books = [book_of(market) for _ in range(2)]
    for book in books:
        for movement in ("seen", "deep", "sweep"):
            move(book, movement, Decimal(100), 0)
    stands: dict[str, UUID | None] = {}
    for poster, places in batches:
        own = [name for name, movement in MOVEMENTS.items() if movement[0] == poster]
        entries: list[tuple[Book, Entry]] = []
        for pick, amount, which, again in places:
            if again == 0 and entries:
                entries.append(entries[pick % len(entries)])
            else:
                book = books[which]
                entries.append((book, _entry(book, own[pick % len(own)], amount, pick)))
        outcomes = post_batch(market.database.engine(poster), [entry for _, entry in entries])
        for (book, entry), outcome in zip(entries, outcomes, strict=True):
            if stands.get(entry.key) is not None:
                assert outcome == Posted(stands[entry.key], False)  # pyright: ignore[reportArgumentType]
                continue
            expected = None if _is_amount(entry.amount) else LedgerRefusal
            expected = expected or book.expected(entry)
            if expected is not None:
                assert isinstance(outcome, expected), (entry, outcome)
                continue
            assert isinstance(outcome, Posted), (entry, outcome)
            assert outcome.is_new
            stands[entry.key] = outcome.entry_id
            book.balances = book.after(entry)
            book.posted.append((poster, entry, outcome.entry_id))
        for book in books:
            balances = check_book(market, book.payment)
            assert {k: v for k, v in balances.items() if v} == {k: v for k, v in book.balances.items() if v}
            assert market.entries(book.payment) == len(book.posted)
