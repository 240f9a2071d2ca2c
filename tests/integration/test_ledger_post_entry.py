"""fleet.post_entry against a real PostgreSQL: every refusal, and what a repeat does (ledger-rules L1, L3, L4, L20)."""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger import (
    BookTooSmall,
    DisputeOpen,
    Entry,
    EntryMalformed,
    KeyUsedForOtherContent,
    MovementNotAllowed,
    Posted,
    post,
)
from custody.store.engine import sqlstate, transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace


@pytest.fixture
def marketplace(database: Database) -> Marketplace:
    return Marketplace(database)


def detected(payment: UUID, fact: UUID, amount: str = "100", key: str | None = None) -> Entry:
    return Entry(
        book_kind="payment",
        book_id=payment,
        chain_id=CHAIN_ID,
        token=TOKEN,
        entry_type="payment_detected",
        reason="seen",
        debit="destination",
        credit="detected",
        amount=Decimal(amount),
        debit_address="0x" + "11" * 20,
        fact_id=fact,
        key=key or f"fact:{fact}:detected",
    )


def held(payment: UUID, fact: UUID, amount: str = "100", credit: str = "held") -> Entry:
    return Entry(
        book_kind="payment",
        book_id=payment,
        chain_id=CHAIN_ID,
        token=TOKEN,
        entry_type="hold",
        reason="deep",
        debit="detected",
        credit=credit,
        amount=Decimal(amount),
        fact_id=fact,
        key=f"fact:{fact}:{credit}",
    )


@contextmanager
def posting(marketplace: Marketplace, role: str, entry: Entry, behind: Connection) -> Generator[Future[Posted]]:
    """``entry`` posted in a transaction that waits for ``behind``, which the caller ends inside the block."""

    def run() -> Posted:
        with transaction(marketplace.database.engine(role)) as connection:
            return post(connection, entry)

    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        while not behind.execute(waiting).scalar_one():
            assert not future.done(), future.result()
        yield future


def test_an_entry_moves_both_accounts_and_is_written_once(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    engine = marketplace.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        first = post(connection, detected(payment, fact))
    with transaction(engine) as connection:
        again = post(connection, detected(payment, fact))
    assert first.is_new
    assert not again.is_new
    assert first.entry_id == again.entry_id
    balance = marketplace.balance(payment)
    assert (balance["destination"], balance["detected"], balance["seq"]) == (100, 100, 1)


def test_the_same_key_with_other_content_names_both(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    engine = marketplace.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        first = post(connection, detected(payment, fact))
    with pytest.raises(KeyUsedForOtherContent, match=str(first.entry_id)), transaction(engine) as connection:
        post(connection, detected(payment, fact, amount="99"))
    assert marketplace.balance(payment)["detected"] == 100


def test_a_role_posts_only_its_own_movements(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with (
        pytest.raises(MovementNotAllowed, match="fleet_confirmations may not post"),
        transaction(marketplace.database.engine("fleet_confirmations")) as connection,
    ):
        post(connection, detected(payment, fact))


@pytest.mark.parametrize("role", ["fleet_ingress", "fleet_webhooks", "fleet_mirror", "fleet_signer_api", "fleet_relay"])
def test_roles_without_movements_cannot_call_it(marketplace: Marketplace, role: str) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with (
        pytest.raises(DBAPIError, match="permission denied"),
        transaction(marketplace.database.engine(role)) as connection,
    ):
        post(connection, detected(payment, fact))


def test_nothing_is_held_that_was_not_detected(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with (
        pytest.raises(BookTooSmall, match="ledger_balances_detected"),
        transaction(marketplace.database.engine("fleet_confirmations")) as connection,
    ):
        post(connection, held(payment, fact))


def test_a_dispute_refuses_a_hold_into_held_and_takes_it_into_disputed(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with transaction(marketplace.database.engine("fleet_watcher")) as connection:
        post(connection, detected(payment, fact))
    marketplace.set_dispute(payment, 1)
    engine = marketplace.database.engine("fleet_confirmations")
    with pytest.raises(DisputeOpen), transaction(engine) as connection:
        post(connection, held(payment, fact))
    with transaction(engine) as connection:
        post(connection, held(payment, fact, credit="disputed"))
    assert marketplace.balance(payment)["disputed"] == 100


@pytest.mark.parametrize(
    ("amount", "message"),
    [("0", "above zero"), ("-1", "above zero"), ("0.0000001", "at most 6 decimals")],
)
def test_an_amount_the_token_cannot_have_is_refused(marketplace: Marketplace, amount: str, message: str) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with (
        pytest.raises(EntryMalformed, match=message),
        transaction(marketplace.database.engine("fleet_watcher")) as connection,
    ):
        post(connection, detected(payment, fact, amount=amount))


def test_a_reversal_needs_a_dead_fact_and_happens_once(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    engine = marketplace.database.engine("fleet_watcher")
    with transaction(engine) as connection:
        first = post(connection, detected(payment, fact))
    reverse = Entry(
        book_kind="payment",
        book_id=payment,
        chain_id=CHAIN_ID,
        token=TOKEN,
        entry_type="adjustment",
        reason="reorg",
        debit="detected",
        credit="destination",
        amount=Decimal(100),
        credit_address="0x" + "11" * 20,
        fact_id=fact,
        reverses_entry_id=first.entry_id,
        key=f"reverse:{first.entry_id}",
    )
    with pytest.raises(MovementNotAllowed, match="dead chain fact"), transaction(engine) as connection:
        post(connection, reverse)
    marketplace.kill_fact(fact)
    with transaction(engine) as connection:
        assert post(connection, reverse).is_new
    with transaction(engine) as connection:
        assert not post(connection, reverse).is_new
    assert marketplace.balance(payment)["detected"] == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE public.funds_ledger_entries SET amount = 1",
        "DELETE FROM public.funds_ledger_entries",
        "TRUNCATE public.funds_ledger_entries CASCADE",
    ],
)
def test_even_a_superuser_in_replica_mode_meets_the_triggers(marketplace: Marketplace, statement: str) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with transaction(marketplace.database.engine("fleet_watcher")) as connection:
        post(connection, detected(payment, fact))
    with transaction(marketplace.database.engine()) as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        with pytest.raises(DBAPIError, match="append-only"), connection.begin_nested():
            connection.execute(text(statement))
    assert marketplace.entries(payment) == 1


def test_each_entry_links_to_the_one_before(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with transaction(marketplace.database.engine("fleet_watcher")) as connection:
        post(connection, detected(payment, fact))
    with transaction(marketplace.database.engine("fleet_confirmations")) as connection:
        post(connection, held(payment, fact))
    with marketplace.database.engine().connect() as connection:
        rows = connection.execute(
            text(
                """
                SELECT e.prev_hash, e.entry_hash, b.head_hash,
                       fleet.entry_hash(e.prev_hash, e.book_seq, e.id, fleet.entry_content_hash(
                           e.book_kind, e.book_id, e.chain_id, e.token, e.entry_type::text, e.reason, e.debit, e.credit,
                           e.amount, e.debit_address, e.credit_address, e.fact_id, e.instruction_id, e.reverses_entry_id,
                           e.idempotency_key), e.metadata, e.poster_role, e.created_at, e.tx_id) AS recomputed
                FROM public.funds_ledger_entries e JOIN fleet.ledger_balances b USING (book_id, chain_id, token)
                WHERE e.book_id = :id ORDER BY e.book_seq
                """
            ),
            {"id": payment},
        ).all()
    assert len(rows) == 2
    assert all(row.recomputed == row.entry_hash for row in rows)
    assert rows[1].prev_hash == rows[0].entry_hash
    assert rows[1].head_hash == rows[1].entry_hash


def test_what_waited_for_the_book_is_judged_by_what_it_finds(marketplace: Marketplace) -> None:
    """L1, L2: the fact died in the transaction that held the book; what was seen of it before counts no more."""
    payment = marketplace.payment()
    dying, other = marketplace.fact(payment), marketplace.fact(payment)
    watcher = marketplace.database.engine("fleet_watcher")
    with transaction(watcher) as connection:
        post(connection, detected(payment, dying))
    with watcher.connect() as connection:
        post(connection, detected(payment, other))
        connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": dying})
        with posting(marketplace, "fleet_confirmations", held(payment, dying), connection) as late:
            connection.commit()
            with pytest.raises(MovementNotAllowed, match="live chain fact"):
                late.result(30)
    assert marketplace.balance(payment)["held"] == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_two_writers_of_one_key_write_it_once(marketplace: Marketplace, is_first: bool) -> None:
    """L1: whoever waited for the other answers what stands; another content under the key is refused (L20)."""
    payment = marketplace.payment()
    fact, before = marketplace.fact(payment), marketplace.fact(payment)
    watcher = marketplace.database.engine("fleet_watcher")
    if not is_first:  # a book's first entry also makes its row
        with transaction(watcher) as connection:
            post(connection, detected(payment, before))
    with watcher.connect() as connection:
        stood = post(connection, detected(payment, fact))
        with posting(marketplace, "fleet_watcher", detected(payment, fact), connection) as late:
            connection.commit()
            assert late.result(30) == (stood.entry_id, False)
        third = marketplace.fact(payment)
        post(connection, detected(payment, third))
        with posting(
            marketplace, "fleet_watcher", replace(detected(payment, third), debit_address="0x" + "22" * 20), connection
        ) as late:
            connection.commit()
            with pytest.raises(KeyUsedForOtherContent):
                late.result(30)
    assert marketplace.balance(payment)["seq"] == (2 if is_first else 3)


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "0", "-1", "0.0000001", "1e21"])
def test_the_database_itself_refuses_an_amount_that_is_none(marketplace: Marketplace, amount: str) -> None:
    payment = marketplace.payment()
    fact = marketplace.fact(payment)
    with marketplace.database.engine("fleet_watcher").connect() as connection:
        post(connection, detected(payment, marketplace.fact(payment)))
        with pytest.raises(DBAPIError) as caught:
            connection.execute(
                text(
                    "SELECT fleet.post_entry('payment', :p, :c, :t, 'payment_detected', 'seen', 'destination', 'detected', "
                    "CAST(:a AS numeric), 'k', 'address', NULL, :f)"
                ),
                {"p": payment, "c": CHAIN_ID, "t": TOKEN, "a": amount, "f": fact},
            )
    assert sqlstate(caught.value) == ("22003" if amount == "1e21" else "FL004")


def test_an_evidence_of_null_is_refused(marketplace: Marketplace) -> None:
    payment = marketplace.payment()
    statement = text(
        "SELECT fleet.post_entry('payment', :p, :c, :t, 'payment_detected', 'seen', 'destination', 'detected', "
        "1, 'k', 'address', NULL, :f, NULL, NULL, NULL)"
    )
    values = {"p": payment, "c": CHAIN_ID, "t": TOKEN, "f": marketplace.fact(payment)}
    engine = marketplace.database.engine("fleet_watcher")
    with pytest.raises(DBAPIError, match="evidence is NULL") as caught, engine.connect() as connection:
        connection.execute(statement, values)
    assert sqlstate(caught.value) == "FL004"


@pytest.mark.parametrize("column", ["purchase_request", "seller_offer", "seller"])
@pytest.mark.parametrize(
    ("kind", "id_", "external"),
    [
        (None, None, "x"),
        ("template", None, None),
        ("entity", None, None),
        ("entity", None, "x"),
        (None, "00000000-0000-0000-0000-000000000001", None),
        ("template", "00000000-0000-0000-0000-000000000001", "x"),
    ],
)
def test_an_older_writer_still_meets_the_marketplace_s_own_rules(
    marketplace: Marketplace, column: str, kind: str | None, id_: str | None, external: str | None
) -> None:
    """Migration 0013's three CHECKs, now one: the backend's rows before adoption, by a role with nothing of the fleet's."""
    with marketplace.database.engine().connect() as connection:
        connection.execute(text("CREATE ROLE an_older_backend"))
        connection.execute(text("GRANT INSERT ON public.funds_ledger_entries TO an_older_backend"))
        connection.execute(text("SET LOCAL ROLE an_older_backend"))
        connection.execute(
            text("INSERT INTO public.funds_ledger_entries (entry_type, amount, currency) VALUES ('hold', 1, 'USDC')")
        )
        with pytest.raises(DBAPIError, match=f"funds_ledger_entries_{column}_ref") as caught:
            connection.execute(
                text(
                    f"INSERT INTO public.funds_ledger_entries (entry_type, amount, currency, {column}_ref_kind, {column}_id, "
                    f"{column}_external_ref) VALUES ('hold', 1, 'USDC', CAST(:k AS public.ref_kind), CAST(:i AS uuid), :e)"
                ),
                {"k": kind, "i": id_, "e": external},
            )
        connection.rollback()
    assert sqlstate(caught.value) == "23514"
