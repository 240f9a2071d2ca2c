"""fleet.post_entries and post_batch: what post_entry means, for many entries at once (ledger-rules L1, L3, L4, L17, L18)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from custody.ledger import (
    BATCH_MAXIMUM,
    BookTooSmall,
    DisputeOpen,
    Entry,
    EntryMalformed,
    KeyUsedForOtherContent,
    LedgerRefusal,
    MovementNotAllowed,
    Posted,
    post,
    post_batch,
    post_together,
)
from custody.store.engine import transaction
from custody.store.outbox import ask_for_entries
from tests.conftest import Database
from tests.ledger_book import Book, book_of, check_book, move
from tests.marketplace import Marketplace


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


def seen(book: Book, amount: int = 100) -> Entry:
    return book.entry("seen", Decimal(amount), fact=book.market.fact(book.payment, amount * 10**6))[1]


def deep(book: Book, fact: UUID | None, amount: int) -> Entry:
    return book.entry("deep", Decimal(amount), fact=fact)[1]


def refused(outcome: object) -> type[LedgerRefusal]:
    assert isinstance(outcome, LedgerRefusal), outcome
    return type(outcome)


def test_a_batch_chains_each_book_in_the_order_given(market: Marketplace) -> None:
    books = [book_of(market) for _ in range(3)]
    entries = [seen(book, number + 1) for number in range(4) for book in books]
    engine = market.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        posted = post_together(connection, entries)
    assert all(one.is_new for one in posted)
    with transaction(market.database.engine("fleet_relay")) as connection:
        assert ask_for_entries(connection, 100) == 12
    for place, book in enumerate(books):
        assert check_book(market, book.payment)["detected"] == 10
        chained = market.execute(
            "SELECT id, idempotency_key FROM public.funds_ledger_entries WHERE book_id = :b ORDER BY book_seq",
            b=book.payment,
        )
        assert [row.id for row in chained] == [one.entry_id for one in posted[place::3]]
        assert [row.idempotency_key for row in chained] == [entry.key for entry in entries[place::3]]
        mirrored = market.execute(
            "SELECT count(*) AS n FROM fleet.outbox WHERE document_id = ANY(:ids)", ids=[row.id for row in chained]
        )
        assert mirrored[0].n == 4


def test_a_repeat_answers_what_stands_also_within_the_batch(market: Marketplace) -> None:
    book = book_of(market)
    first, second = seen(book), seen(book, 7)
    engine = market.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        stood = post(connection, first)
        posted = post_together(connection, [first, second, second])
    assert posted[0] == (stood.entry_id, False)
    assert posted[1].is_new
    assert posted[2] == (posted[1].entry_id, False)
    assert check_book(market, book.payment)["detected"] == 107
    for batch in ([replace(first, amount=Decimal(3))], [seen(book, 1), replace(second, amount=Decimal(3))]):
        with pytest.raises(KeyUsedForOtherContent), transaction(engine) as connection:
            post_together(connection, batch)
    third = seen(book, 5)
    with pytest.raises(KeyUsedForOtherContent, match=third.key), transaction(engine) as connection:
        post_together(connection, [third, replace(third, amount=Decimal(3))])
    assert check_book(market, book.payment)["detected"] == 107


def test_each_step_on_the_way_must_be_legal_not_only_the_end(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    fact = book.inbound[0]
    confirmations = market.database.engine("fleet_confirmations")
    with pytest.raises(BookTooSmall, match="ledger_balances_detected"), transaction(confirmations) as connection:
        post_together(connection, [deep(book, fact, 60), deep(book, fact, 60)])
    with transaction(confirmations) as connection:
        post_together(connection, [deep(book, fact, 60), deep(book, fact, 40)])
    releases = market.database.engine("fleet_releases")
    reserve, void = book.entry("reserve", Decimal(10))[1], book.entry("void", Decimal(10))[1]
    # Reserved and voided again the book ends where it began, but the promise in between was not covered (L3).
    with pytest.raises(BookTooSmall, match="promises_covered"), transaction(releases) as connection:
        post_together(connection, [reserve, void])
    with pytest.raises(BookTooSmall, match="ledger_balances_releasing"), transaction(releases) as connection:
        post_together(connection, [void, reserve])
    move(book, "sweep", Decimal(100), 0)
    with transaction(releases) as connection:
        post_together(connection, [reserve, void])
    assert check_book(market, book.payment)["held"] == 100


@pytest.mark.parametrize("is_batch", [False, True])
def test_the_epoch_moves_as_if_posted_one_by_one(market: Marketplace, is_batch: bool) -> None:
    book = book_of(market)
    for movement in ("seen", "deep", "sweep"):
        move(book, movement, Decimal(100), 0)
    balance = market.balance(book.payment)
    market.execute(
        "UPDATE fleet.release_instructions SET release_epoch = :e WHERE id = :id",
        e=balance["release_epoch"],
        id=book.instruction,
    )
    entries = [book.entry(name, Decimal(10))[1] for name in ("reserve", "void", "reserve", "final")]
    with transaction(market.database.engine("fleet_releases")) as connection:
        if is_batch:
            post_together(connection, entries)
        else:
            for entry in entries:
                post(connection, entry)
    after = market.balance(book.payment)
    own = market.execute("SELECT release_epoch FROM fleet.release_instructions WHERE id = :i", i=book.instruction)
    assert after["release_epoch"] - balance["release_epoch"] == 3
    assert own[0].release_epoch == after["release_epoch"]  # its own entries never make an instruction stale (L18)


def test_refusals_are_those_of_a_single_post(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    good = seen(book, 1)
    disputed = book_of(market)
    move(disputed, "seen", Decimal(100), 0)
    market.set_dispute(disputed.payment, 1)
    cases: list[tuple[str, Entry, type[LedgerRefusal]]] = [
        ("fleet_watcher", replace(good, amount=Decimal("0.0000001")), EntryMalformed),
        ("fleet_watcher", replace(good, amount=Decimal(-1)), EntryMalformed),
        ("fleet_watcher", replace(good, token="0xno"), EntryMalformed),
        ("fleet_watcher", replace(good, debit_address=None), EntryMalformed),
        ("fleet_watcher", replace(good, book_id=UUID(int=1)), EntryMalformed),
        ("fleet_watcher", replace(good, book_kind="house"), EntryMalformed),
        ("fleet_watcher", replace(good, amount=Decimal(10) ** 30), EntryMalformed),
        ("fleet_confirmations", good, MovementNotAllowed),
        ("fleet_watcher", replace(good, fact_id=None), MovementNotAllowed),
        ("fleet_watcher", replace(good, reverses_entry_id=book.posted[0][2]), MovementNotAllowed),
        ("fleet_confirmations", deep(disputed, disputed.inbound[0], 1), DisputeOpen),
        ("fleet_confirmations", deep(book, book.inbound[0], 101), BookTooSmall),
    ]
    for poster, entry, refusal in cases:
        engine = market.database.engine(poster)
        with pytest.raises(refusal) as single, transaction(engine) as connection:
            post(connection, entry)
        with pytest.raises(refusal) as batched, transaction(engine) as connection:
            post_together(connection, [entry])
        assert str(batched.value).splitlines()[0] == str(single.value).splitlines()[0]


def test_two_reversals_of_one_entry_in_a_batch_are_refused(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    _, entry, entry_id = book.posted[0]
    assert entry.fact_id is not None
    market.kill_fact(entry.fact_id)
    reverse = replace(
        entry, entry_type="adjustment", reason="reorg", debit=entry.credit, credit=entry.debit,
        debit_address=None, credit_address=entry.debit_address, reverses_entry_id=entry_id, key="reverse:a",
    )  # fmt: skip
    engine = market.database.engine("fleet_watcher")
    with pytest.raises(MovementNotAllowed, match="not reversed yet"), transaction(engine) as connection:
        post_together(connection, [reverse, replace(reverse, key="reverse:b")])
    assert refused(post_batch(engine, [reverse, replace(reverse, key="reverse:b")])[1]) is MovementNotAllowed
    assert check_book(market, book.payment)["detected"] == 0
    again = market.execute("SELECT id FROM public.funds_ledger_entries WHERE idempotency_key = 'reverse:a'")[0].id
    undo = replace(entry, reverses_entry_id=again, key="reverse:c")
    with pytest.raises(MovementNotAllowed), transaction(engine) as connection:
        post(connection, undo)  # never of a reversal


def test_a_poisoned_entry_is_left_out_alone(market: Marketplace) -> None:
    books = [book_of(market) for _ in range(4)]
    entries = [seen(books[number % 4], 1) for number in range(120)]
    entries[17] = replace(entries[17], amount=Decimal("0.0000001"))
    entries[90] = replace(entries[90], fact_id=None)
    outcomes = post_batch(market.database.engine("fleet_watcher"), entries)
    assert refused(outcomes[17]) is EntryMalformed
    assert refused(outcomes[90]) is MovementNotAllowed
    good = [one for place, one in enumerate(outcomes) if place not in {17, 90}]
    assert all(isinstance(one, Posted) and one.is_new for one in good)
    assert sum(check_book(market, book.payment)["detected"] for book in books) == 118
    again = post_batch(market.database.engine("fleet_watcher"), entries)
    assert [one.entry_id for one in again if isinstance(one, Posted)] == [
        one.entry_id for one in good if isinstance(one, Posted)
    ]


def test_a_batch_without_poison_is_one_attempt_without_savepoints(market: Marketplace) -> None:
    book = book_of(market)
    entries = [seen(book, 1) for _ in range(BATCH_MAXIMUM + 1)]
    engine = market.database.engine("fleet_watcher")
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "savepoint", lambda *_: statements.append("SAVEPOINT"))
    outcomes = post_batch(engine, entries)
    event.remove(engine, "before_cursor_execute", note)
    assert all(isinstance(one, Posted) and one.is_new for one in outcomes)
    assert len(statements) == 2  # 500 and 1
    assert "SAVEPOINT" not in statements
    assert check_book(market, book.payment)["detected"] == BATCH_MAXIMUM + 1


def test_no_more_than_500_and_nothing_but_an_array(market: Marketplace) -> None:
    book = book_of(market)
    entry = seen(book)
    engine = market.database.engine("fleet_watcher")
    with pytest.raises(ValueError, match="at most 500"), transaction(engine) as connection:
        post_together(connection, [entry] * 501)
    with transaction(engine) as connection:
        assert post_together(connection, []) == []
    for value in ("[]", "{}", "null", "[" + ",".join(["{}"] * 501) + "]"):
        with pytest.raises(DBAPIError, match="expected an array of 1 to 500"), transaction(engine) as connection:
            connection.execute(text("SELECT fleet.post_entries(CAST(:v AS jsonb))"), {"v": value})


def test_batches_in_opposite_orders_do_not_lock_each_other_out(market: Marketplace) -> None:
    """L17: the database sorts the books, whatever order a caller has them in."""
    books = [book_of(market) for _ in range(20)]
    engine = market.database.engine("fleet_watcher")
    batches = [[seen(book, 1) for book in (books if number % 2 else books[::-1])] for number in range(8)]
    gate = threading.Barrier(8)

    def run(batch: list[Entry]) -> None:
        gate.wait(30)
        with transaction(engine) as connection:  # not post_batch: a deadlock would be retried there
            post_together(connection, batch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, batches))
    for book in books:
        assert check_book(market, book.payment)["detected"] == 8


def test_a_batch_that_loses_a_deadlock_is_posted_all_the_same(market: Marketplace) -> None:
    """L17: 40P01 is run again. The other side waits longer for its deadlock, so that the batch is the victim."""
    first, second = sorted((book_of(market) for _ in range(2)), key=lambda book: book.payment)
    for book in (first, second):
        move(book, "seen", Decimal(100), 0)
    touch = text("UPDATE fleet.ledger_balances SET updated_at = now() WHERE book_id = :b")
    rolled_back: list[object] = []
    note = rolled_back.append
    engine = market.database.engine("fleet_watcher")
    event.listen(engine, "rollback", note)
    with market.database.engine().begin() as other, ThreadPoolExecutor(1) as pool:
        other.execute(text("SET LOCAL deadlock_timeout = '1h'"))
        other.execute(touch, {"b": second.payment})
        batch = pool.submit(post_batch, engine, [seen(first, 1), seen(second, 1)])
        waiting = text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
        while not other.execute(waiting).scalar_one():
            assert not batch.done()
        other.execute(touch, {"b": first.payment})
        other.commit()
        outcomes = batch.result(30)
    event.remove(engine, "rollback", note)
    assert all(isinstance(one, Posted) and one.is_new for one in outcomes)
    assert len(rolled_back) == 1
    for book in (first, second):
        assert check_book(market, book.payment)["detected"] == 101
