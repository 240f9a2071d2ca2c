"""Adjustments by hand: proposed by one, executed by another; signatures are test_operator_signatures.py's (R10)."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import typer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from custody.ledger import BookTooSmall, Entry, MovementNotAllowed, post
from custody.ledger.adjustments import (
    ActionRefused,
    OpeningClaim,
    execute,
    open_actions,
    propose,
    propose_correction,
    propose_opening,
    withdraw,
)
from custody.settings.environment import settings
from custody.store.engine import sqlstate, transaction
from tests.conftest import Database
from tests.ledger_book import TREASURY, Book, book_of, check_book, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from workers.cli.adjust import add_to


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture
def late(market: Marketplace) -> Book:
    """100 arrived late and lie in suspense."""
    book = book_of(market)
    move(book, "seen", Decimal(100), 0)
    move(book, "surplus", Decimal(100), 0)
    return book


def proposed(book: Book, amount: int = 40, by: str = "mina") -> tuple[UUID, str]:
    with transaction(book.market.database.engine("fleet_operator")) as connection:
        action = propose(connection, book.payment, "accepted", Decimal(amount), reason="the buyer asked", by=by)
        return action, next(one.hash for one in open_actions(connection) if one.id == action)


def executed(book: Book, action: UUID, agreed: str, by: str = "omid") -> UUID:
    with transaction(book.market.database.engine("fleet_operator")) as connection:
        return execute(connection, action, agreed_hash=agreed, by=by)


def test_what_one_proposes_another_executes_once(late: Book) -> None:
    action, agreed = proposed(late)
    assert late.market.balance(late.payment)["held"] == 0
    entry = executed(late, action, agreed)
    assert check_book(late.market, late.payment)["held"] == 40
    (row,) = late.market.execute("SELECT * FROM public.funds_ledger_entries WHERE id = :id", id=entry)
    assert (row.poster_role, row.entry_type, row.reason) == ("fleet_operator", "adjustment", "accepted")
    assert (row.metadata["proposed_by"], row.metadata["executed_by"]) == ("mina", "omid")
    assert row.metadata["parameter_hash"] == agreed
    with pytest.raises(ActionRefused, match="only a proposed one"):
        executed(late, action, agreed)
    assert check_book(late.market, late.payment)["held"] == 40


def test_nobody_executes_what_he_proposed(late: Book) -> None:
    action, agreed = proposed(late, by="mina")
    with pytest.raises(ActionRefused, match="another person executes it"):
        executed(late, action, agreed, by="mina")
    assert late.market.balance(late.payment)["held"] == 0


def test_the_second_person_agrees_to_exactly_what_was_shown(late: Book) -> None:
    action, agreed = proposed(late)
    with pytest.raises(ActionRefused, match="other parameters"):
        executed(late, action, "00" * 32)
    late.market.execute(
        "UPDATE fleet.operator_actions SET parameters = jsonb_set(parameters, '{amount}', '\"99\"') WHERE id = :id",
        id=action,
    )
    with pytest.raises(ActionRefused, match="other parameters"):
        executed(late, action, agreed)


def test_what_is_withdrawn_is_not_executed(late: Book) -> None:
    action, agreed = proposed(late)
    with transaction(late.market.database.engine("fleet_operator")) as connection:
        withdraw(connection, action, by="mina")
    with pytest.raises(ActionRefused, match="withdrawn"):
        executed(late, action, agreed)


def test_the_books_still_refuse_what_is_not_there(late: Book) -> None:
    action, agreed = proposed(late, amount=101)
    with pytest.raises(BookTooSmall):
        executed(late, action, agreed)
    assert (
        late.market.execute("SELECT state FROM fleet.operator_actions WHERE id = :i", i=action)[0].state == "proposed"
    )


def test_an_adjustment_is_corrected_once_and_a_correction_never(late: Book) -> None:
    entry = executed(late, *proposed(late))
    engine = late.market.database.engine("fleet_operator")

    def correct(entry_id: UUID) -> UUID:
        with transaction(engine) as connection:
            action = propose_correction(connection, entry_id, reason="wrong payment", by="omid")
            agreed = next(one.hash for one in open_actions(connection) if one.id == action)
        return executed(late, action, agreed, by="mina")

    correction = correct(entry)
    assert check_book(late.market, late.payment)["suspense"] == 100
    with pytest.raises(MovementNotAllowed, match="not reversed yet"):
        correct(entry)
    with pytest.raises(LookupError):
        correct(correction)
    with pytest.raises(LookupError):
        correct(late.posted[0][2])  # what the chain said is the watcher's to take back (L20)


def test_where_money_is_real_nothing_is_executed_unsigned(market: Marketplace) -> None:
    real = Marketplace(market.database, chain_id=1)
    real._indices = 10_000  # beside the other marketplace's
    payment = real.payment()
    with transaction(market.database.engine("fleet_operator")) as connection:
        action = propose(connection, payment, "accepted", Decimal(1), reason="r", by="mina")
        agreed = next(one.hash for one in open_actions(connection) if one.id == action)
    book = book_of(market)
    with pytest.raises(ActionRefused, match="needs the signatures of two persons, nobody signed"):
        executed(book, action, agreed)


def test_an_operator_has_no_other_way_to_post(late: Book) -> None:
    engine = late.market.database.engine("fleet_operator")
    entry = Entry(
        book_kind="payment", book_id=late.payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="adjustment",
        reason="accepted", debit="suspense", credit="held", amount=Decimal(1), key="by hand",
    )  # fmt: skip
    with pytest.raises(DBAPIError) as caught, transaction(engine) as connection:
        post(connection, entry)
    assert sqlstate(caught.value) == "42501"
    for statement in (
        "INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by) "
        "VALUES ('adjust', 31337, '{}', '', 'r', 'x')",
        "UPDATE fleet.operator_actions SET proposed_by = 'somebody else'",
        "DELETE FROM fleet.operator_actions",
    ):
        with pytest.raises(DBAPIError) as caught, transaction(engine) as connection:
            connection.execute(text(statement))
        assert sqlstate(caught.value) == "42501"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"amount": Decimal(0)}, ValueError),
        ({"amount": Decimal("NaN")}, ValueError),
        ({"reason": ""}, ValueError),
        ({"reason": "x" * 501}, ValueError),
        ({"by": ""}, ValueError),
        ({"payment_id": UUID(int=7)}, LookupError),
    ],
)
def test_a_proposal_that_is_none_is_refused(late: Book, change: dict[str, Any], error: type[Exception]) -> None:
    asked: dict[str, Any] = {
        "payment_id": late.payment,
        "kind": "accepted",
        "amount": Decimal(1),
        "reason": "r",
        "by": "m",
    }
    with pytest.raises(error), transaction(late.market.database.engine("fleet_operator")) as connection:
        propose(connection, **{**asked, **change})


def test_fleet_ledger_adjust(late: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    add_to(app)
    monkeypatch.setenv("DATABASE_URL", late.market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "1000")
    settings.cache_clear()

    def fleet(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["adjust", *arguments])
        return result.exit_code, result.output

    code, said = fleet("accept", str(late.payment), "12.5", "--by", "mina", "--reason", "[red]paid late[/red]")
    assert code == 0, said
    action = said.split()[2].rstrip(";")
    code, said = fleet("list")
    assert (code, "[red]paid late[/red]" in said, action in said) == (0, True, True)
    agreed = late.market.execute(
        "SELECT encode(parameter_hash, 'hex') AS h FROM fleet.operator_actions WHERE id = :i", i=action
    )
    assert agreed[0].h in said
    code, said = fleet("execute", action, "--by", "mina", "--hash", agreed[0].h)
    assert (code, "another person" in said) == (2, True)
    code, said = fleet("execute", action, "--by", "omid", "--hash", agreed[0].h)
    assert (code, "posted as entry" in said) == (0, True)
    assert late.market.balance(late.payment)["held"] == Decimal("12.5")
    assert fleet("withdraw", action, "--by", "mina")[0] == 2
    assert fleet("accept", str(late.payment), "much", "--by", "mina", "--reason", "r")[0] == 2
    (row,) = late.market.execute("SELECT entry_id FROM fleet.operator_actions WHERE id = :i", i=action)
    assert fleet("correct", str(row.entry_id), "--by", "omid", "--reason", "r")[0] == 0
    settings.cache_clear()


# What a payment had when the fleet joined -------------------------------------------------------------------------


def opening(book: Book, amount: int, claim: OpeningClaim = "held") -> UUID:
    with transaction(book.market.database.engine("fleet_operator")) as connection:
        action = propose_opening(
            connection,
            book.payment,
            Decimal(amount),
            place="treasury",
            address=TREASURY,
            claim=claim,
            reason="held before the fleet",
            by="mina",
        )
        agreed = next(one.hash for one in open_actions(connection) if one.id == action)
    return executed(book, action, agreed)


def test_a_book_is_opened_with_what_it_had_and_in_parts(market: Marketplace) -> None:
    book = book_of(market)
    opening(book, 70)
    entry = opening(book, 30, claim="suspense")
    balances = check_book(market, book.payment)
    assert (balances["treasury"], balances["held"], balances["suspense"]) == (100, 70, 30)
    (row,) = market.execute("SELECT entry_type, reason FROM public.funds_ledger_entries WHERE id = :id", id=entry)
    assert (row.entry_type, row.reason) == ("adjustment", "opening")


def test_an_opening_is_corrected_once(market: Marketplace) -> None:
    book = book_of(market)
    entry = opening(book, 70)
    with transaction(market.database.engine("fleet_operator")) as connection:
        action = propose_correction(connection, entry, reason="it was 60", by="mina")
        agreed = next(one.hash for one in open_actions(connection) if one.id == action)
    executed(book, action, agreed)
    assert check_book(market, book.payment)["treasury"] == 0
    opening(book, 60)
    assert check_book(market, book.payment)["held"] == 60


def test_a_book_that_has_moved_is_not_opened_any_more(late: Book) -> None:
    with pytest.raises(ActionRefused, match="has entries already"):
        opening(late, 70)
    assert late.market.balance(late.payment)["treasury"] == 0
