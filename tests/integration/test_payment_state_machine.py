"""The database's own refusals: every pair of payment states, and money that Python would let go (design §4, L2, L3, L4).

Everything here is raw SQL, as a process with broken Python would send it.
"""

import sys
from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from typing import Any, Final

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger import Entry, post, post_together
from custody.payments.transitions import ESCROW_STATES, STATUSES, TRANSITIONS, PaymentState
from custody.store.engine import sqlstate, transaction
from tests.conftest import Database
from tests.ledger_book import DESTINATION, TREASURY, Book, book_of, check_book, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace

STATES: Final = [PaymentState(status, escrow) for status, escrow in product(STATUSES, (None, *ESCROW_STATES))]


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture
def swept(market: Marketplace) -> Book:
    """100 held and in the treasury, the payment confirmed and releasable."""
    book = book_of(market)
    for movement in ("seen", "deep", "sweep"):
        move(book, movement, Decimal(100), 0)
    return book


@pytest.fixture
def releases(market: Marketplace) -> Iterator[Connection]:
    with market.database.engine("fleet_releases").connect() as connection:
        yield connection


def set_state(connection: Connection, payment: Any, status: str, escrow: str | None) -> None:
    connection.execute(
        text(
            "UPDATE public.payments SET status = CAST(:s AS public.payment_status), "
            "escrow_state = CAST(:e AS public.escrow_state) WHERE id = :id"
        ),
        {"s": status, "e": escrow, "id": payment},
    )


def promise(connection: Connection, book: Book, amount: int, key: str = "release:1:reserve:1") -> None:
    connection.execute(
        text(
            "SELECT fleet.post_entry('payment', :book, :chain, :token, 'release', 'reserve', 'held', 'releasing', :amount, "
            ":key, NULL, NULL, NULL, :instruction)"
        ),
        {"book": book.payment, "chain": CHAIN_ID, "token": TOKEN, "amount": amount, "key": key,
         "instruction": book.instruction},
    )  # fmt: skip


def pay(connection: Connection, book: Book, amount: int, key: str = "release:1:final:1") -> None:
    connection.execute(
        text(
            "SELECT fleet.post_entry('payment', :book, :chain, :token, 'release', 'final', 'releasing', 'treasury', :amount, "
            ":key, NULL, :treasury, :fact, :instruction)"
        ),
        {"book": book.payment, "chain": CHAIN_ID, "token": TOKEN, "amount": amount, "key": key, "treasury": TREASURY,
         "fact": book.payout_fact, "instruction": book.instruction},
    )  # fmt: skip


def test_the_database_s_table_is_python_s(market: Marketplace) -> None:
    rows = market.execute(
        "SELECT name, from_status::text, from_escrow::text, to_status::text, to_escrow::text, entry_type::text, needs "
        "FROM fleet.payment_transitions"
    )
    assert {tuple(row) for row in rows} == {
        (name, source.status, source.escrow, item.target.status, item.target.escrow, item.entry, item.needs)
        for name, item in TRANSITIONS.items()
        for source in item.sources
    }
    assert len(rows) == sum(len(item.sources) for item in TRANSITIONS.values())


# Every pair in one statement: 63 x 63 updates, each undone.
_WALK = """
DO $walk$
DECLARE a record; b record;
BEGIN
    CREATE TEMP TABLE walked (from_status text, from_escrow text, to_status text, to_escrow text, said text) ON COMMIT DROP;
    FOR a IN SELECT s, e FROM unnest(enum_range(NULL::public.payment_status)) s,
                              unnest(NULL::public.escrow_state || enum_range(NULL::public.escrow_state)) e LOOP
        ALTER TABLE public.payments DISABLE TRIGGER payments_moves;
        UPDATE public.payments SET status = a.s, escrow_state = a.e WHERE id = '{payment}';
        ALTER TABLE public.payments ENABLE ALWAYS TRIGGER payments_moves;
        FOR b IN SELECT s, e FROM unnest(enum_range(NULL::public.payment_status)) s,
                                  unnest(NULL::public.escrow_state || enum_range(NULL::public.escrow_state)) e LOOP
            BEGIN
                UPDATE public.payments SET status = b.s, escrow_state = b.e WHERE id = '{payment}';
                RAISE EXCEPTION 'moved' USING ERRCODE = 'FLOK1';
            EXCEPTION WHEN SQLSTATE 'FLOK1' OR SQLSTATE 'FL005' THEN
                INSERT INTO walked VALUES (a.s, a.e, b.s, b.e, SQLERRM);
            END;
        END LOOP;
    END LOOP;
END $walk$
"""


def test_every_pair_of_states_is_walked_and_only_the_table_s_are_passed(market: Marketplace) -> None:
    payment = market.payment()
    with transaction(market.database.engine()) as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no way round an ALWAYS trigger
        connection.execute(text(_WALK.format(payment=payment)))
        rows = connection.execute(text("SELECT * FROM walked")).all()
    legal = {(source, item.target): item for item in TRANSITIONS.values() for source in item.sources}
    counts = {"moved": 0, "stayed": 0, "refused": 0, "not booked": 0}
    for row in rows:
        before, after = PaymentState(row.from_status, row.from_escrow), PaymentState(row.to_status, row.to_escrow)
        move_ = legal.get((before, after))
        if before == after:
            assert row.said == "moved"
            counts["stayed"] += 1
        elif move_ is None:
            assert "may not become" in row.said
            for item in TRANSITIONS.values():
                assert (f" {item.name} (to " in row.said) == (before in item.sources)
            counts["refused"] += 1
        elif move_.needs is None:
            assert row.said == "moved"
            counts["moved"] += 1
        else:
            assert f"may not move by {move_.name}" in row.said
            counts["not booked"] += 1
    sys.stdout.write(f"{len(STATES)} x {len(STATES)} pairs: {counts}\n")
    assert sum(counts.values()) == len(STATES) ** 2 == 3969
    assert counts["not booked"] == sum(len(item.sources) for item in TRANSITIONS.values() if item.needs)


@pytest.mark.parametrize("escrow", [None, "cancelled", "failed"])
def test_the_backend_may_insert_and_close_what_nobody_paid(market: Marketplace, escrow: str | None) -> None:
    for status in ("cancelled", "failed"):
        if escrow not in {None, status}:
            continue
        payment = market.payment()
        with transaction(market.database.engine()) as connection:
            set_state(connection, payment, status, escrow)
        assert market.state(payment) == (status, escrow)


def test_the_whole_way_of_a_release_in_raw_sql(swept: Book, releases: Connection) -> None:
    with releases.begin():
        promise(releases, swept, 100)
        set_state(releases, swept.payment, "confirmed", "releasing")
    with releases.begin():
        pay(releases, swept, 100)
        set_state(releases, swept.payment, "completed", "released")
    assert swept.market.state(swept.payment) == ("completed", "released")
    assert check_book(swept.market, swept.payment)["treasury"] == 0


def test_a_payment_is_releasing_only_with_a_promise_of_this_transaction(swept: Book, releases: Connection) -> None:
    lacks = r"release_reserved: it needs an entry release : reserve .* found none and 0"
    with pytest.raises(DBAPIError, match=lacks), releases.begin():
        set_state(releases, swept.payment, "confirmed", "releasing")
    with releases.begin():
        promise(releases, swept, 40)
    with pytest.raises(DBAPIError, match="found none and 40"), releases.begin():
        set_state(releases, swept.payment, "confirmed", "releasing")


def test_a_payment_is_released_only_when_all_that_was_promised_is_paid(swept: Book, releases: Connection) -> None:
    with releases.begin():
        promise(releases, swept, 100)
        set_state(releases, swept.payment, "confirmed", "releasing")
    with pytest.raises(DBAPIError, match=r"released: .* found none and 100"), releases.begin():
        set_state(releases, swept.payment, "completed", "released")
    with releases.begin():
        pay(releases, swept, 60)
    with pytest.raises(DBAPIError, match=r"released: .* found one and 40"), releases.begin():
        set_state(releases, swept.payment, "completed", "released")
    with pytest.raises(DBAPIError, match=r"release_voided: .* found none and 40"), releases.begin():
        set_state(releases, swept.payment, "confirmed", "releasable")
    assert swept.market.state(swept.payment) == ("confirmed", "releasing")


def test_a_double_release_is_refused(swept: Book, releases: Connection) -> None:
    with releases.begin():
        promise(releases, swept, 50)
        set_state(releases, swept.payment, "confirmed", "releasing")
    other = "is confirmed/releasing; a release is promised from"
    with pytest.raises(DBAPIError, match=other) as caught, releases.begin():
        promise(releases, swept, 50, "release:2:reserve:1")
    assert sqlstate(caught.value) == "FL002"
    with releases.begin():
        pay(releases, swept, 50)
        set_state(releases, swept.payment, "completed", "released")
    with pytest.raises(DBAPIError, match="is completed/released"), releases.begin():
        promise(releases, swept, 50, "release:2:reserve:1")
    with pytest.raises(DBAPIError, match="ledger_balances_releasing"), releases.begin():
        pay(releases, swept, 50, "release:1:final:2")
    with pytest.raises(DBAPIError, match="legal: none"), releases.begin():
        set_state(releases, swept.payment, "confirmed", "releasable")


def test_a_release_in_dispute_is_refused(swept: Book, releases: Connection) -> None:
    swept.market.set_dispute(swept.payment, 1)
    with pytest.raises(DBAPIError, match="1 dispute") as caught, releases.begin():
        promise(releases, swept, 10)
    assert sqlstate(caught.value) == "FL003"


def test_a_release_above_the_treasury_s_balance_is_refused(market: Marketplace, releases: Connection) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    move(book, "deep", Decimal(100), 0)
    with pytest.raises(DBAPIError, match="ledger_balances_promises_covered"), releases.begin():
        promise(releases, book, 1)
    move(book, "sweep", Decimal(60), 0)
    with pytest.raises(DBAPIError, match="ledger_balances_promises_covered"), releases.begin():
        promise(releases, book, 61)
    with releases.begin():
        promise(releases, book, 60)


@pytest.mark.parametrize("state", [s for s in STATES if s != PaymentState("confirmed", "releasable")])
def test_a_release_of_a_payment_in_another_state_is_refused(
    market: Marketplace, releases: Connection, state: PaymentState
) -> None:
    book = _one_swept(market)
    market.put(book.payment, state.status, state.escrow)
    with pytest.raises(DBAPIError, match="promised from confirmed/releasable only"), releases.begin():
        promise(releases, book, 1)


_SWEPT: dict[str, Book] = {}


def _one_swept(market: Marketplace) -> Book:
    if market.database.name not in _SWEPT:
        book = book_of(market)
        for movement in ("seen", "deep", "sweep"):
            move(book, movement, Decimal(100), 0)
        _SWEPT[market.database.name] = book
    return _SWEPT[market.database.name]


# L2: the sum of a fact ---------------------------------------------------------------------------------------------


def _seen(book: Book, fact: Any, amount: Decimal, key: str) -> Entry:
    return Entry(
        book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="payment_detected",
        reason="seen", debit="destination", credit="detected", amount=amount, debit_address=DESTINATION, fact_id=fact,
        key=key,
    )  # fmt: skip


def _sweep(book: Book, fact: Any, amount: Decimal, key: str) -> Entry:
    return Entry(
        book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
        reason="sweep", debit="treasury", credit="destination", amount=amount, debit_address=TREASURY,
        credit_address=DESTINATION, fact_id=fact, key=key,
    )  # fmt: skip


@pytest.mark.parametrize("amounts", [["99.999999"], ["100.000001"], ["100", "0.000001"], ["50", "49"]])
def test_what_is_booked_of_an_inbound_fact_is_its_amount(market: Marketplace, amounts: list[str]) -> None:
    book = book_of(market)
    fact = market.fact(book.payment)
    entries = [_seen(book, fact, Decimal(amount), f"k{number}") for number, amount in enumerate(amounts)]
    watcher = market.database.engine("fleet_watcher")
    with (
        pytest.raises(DBAPIError, match=r"in all; it says 100000000 \(L2\)") as caught,
        transaction(watcher) as connection,
    ):
        post_together(connection, entries)
    assert sqlstate(caught.value) == "23514"
    assert check_book(market, book.payment) == {}


def test_two_legs_that_sum_to_the_fact_s_amount_stand(market: Marketplace) -> None:
    book = book_of(market)
    fact = market.fact(book.payment)
    with transaction(market.database.engine("fleet_watcher")) as connection:
        post(connection, _seen(book, fact, Decimal(60), "k0"))
        post(connection, _seen(book, fact, Decimal(40), "k1"))
    with (
        pytest.raises(DBAPIError, match="it says 100000000"),
        transaction(market.database.engine("fleet_watcher")) as connection,
    ):
        post(connection, _seen(book, fact, Decimal(1), "k2"))


def test_a_sweep_s_shares_sum_to_its_fact_less_what_no_book_held(market: Marketplace) -> None:
    books = [book_of(market) for _ in range(2)]
    for book in books:
        move(book, "seen", Decimal(100), 0)
    sweeps = market.database.engine("fleet_sweeps")
    fact = market.moved_fact(200_000_000, "sweep", TREASURY)
    with pytest.raises(DBAPIError, match="it says -200000000"), transaction(sweeps) as connection:
        post(connection, _sweep(books[0], fact, Decimal(100), "s"))
    with transaction(sweeps) as connection:
        for book in books:
            post(connection, _sweep(book, fact, Decimal(100), "s"))
    other = book_of(market)
    move(other, "seen", Decimal(100), 0)
    short = market.moved_fact(130_000_000, "sweep", TREASURY)
    with transaction(sweeps) as connection:
        connection.execute(text("UPDATE fleet.chain_facts SET unbooked_units = 30000000 WHERE id = :f"), {"f": short})
        post(connection, _sweep(other, short, Decimal(100), "s"))


def test_a_fact_of_another_direction_moves_no_destination(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    inbound = market.fact(book.payment)
    with (
        pytest.raises(DBAPIError, match="entries of inbound fact"),
        transaction(market.database.engine("fleet_sweeps")) as connection,
    ):
        post(connection, _sweep(book, inbound, Decimal(100), "s"))
    with (
        pytest.raises(DBAPIError, match="entries of outbound fact"),
        transaction(market.database.engine("fleet_sweeps")) as connection,
    ):
        post(connection, _sweep(book, book.payout_fact, Decimal(100), "s"))


def test_a_dead_fact_s_legs_are_all_taken_back_together(market: Marketplace) -> None:
    book = book_of(market)
    fact = market.fact(book.payment)
    engine = market.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        legs = [post(connection, _seen(book, fact, Decimal(50), f"k{n}")).entry_id for n in range(2)]
    market.kill_fact(fact)

    def reverse(leg: Any) -> Entry:
        return Entry(
            book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
            reason="reorg", debit="detected", credit="destination", amount=Decimal(50), credit_address=DESTINATION,
            fact_id=fact, reverses_entry_id=leg, key=f"reverse:{leg}",
        )  # fmt: skip

    with pytest.raises(DBAPIError, match="it says 0"), transaction(engine) as connection:
        post(connection, reverse(legs[0]))
    with transaction(engine) as connection:
        for leg in legs:
            post(connection, reverse(leg))
    assert check_book(market, book.payment)["destination"] == 0
