"""Balances, statements and exports say exactly what the entries say (design §4, L10)."""

import csv
import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from custody.ledger import Entry, post
from custody.ledger.accounts import ACCOUNTS
from custody.ledger.reports.balances import account_totals
from custody.ledger.reports.export import COLUMNS, ROWS_AT_ONCE, Selection, export, safe_cell
from custody.ledger.reports.moment import moment
from custody.ledger.reports.statement import statement
from custody.settings.environment import load_settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import declared
from tests.ledger_book import Book, book_of, move
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from workers.cli import ledger_reports

STORY = (("seen", 100), ("deep", 90), ("surplus", 10), ("sweep", 100), ("reserve", 30), ("void", 10), ("final", 20))
RUNNER = CliRunner()


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def told(market: Marketplace) -> Book:
    """A book with STORY in it; a unit more than whole tokens came in."""
    book = book_of(market)
    for movement, amount in STORY:
        odd = Decimal("0.000001") if movement in {"seen", "surplus", "sweep"} else Decimal(0)
        move(book, movement, amount + odd, 0)
    return book


def totals(market: Marketplace, **which: Any) -> dict[str, Decimal]:
    with moment(market.database.engine("fleet_operator")) as connection:
        return {one.account: one.amount for one in account_totals(connection, **which)}


@pytest.mark.parametrize("of_one", [True, False])
def test_balance_rows_and_entries_agree_now(market: Marketplace, of_one: bool) -> None:
    books = [told(market), told(market)]
    which = {"payment_id": books[0].payment} if of_one else {"chain_id": CHAIN_ID}
    from_rows = totals(market, **which)
    assert from_rows == totals(market, at=datetime.now(UTC) + timedelta(days=1), **which)
    expected = books[0].balances if of_one else books[0].balances + books[1].balances
    assert from_rows == {account: expected[account] for account in ACCOUNTS if expected[account]}


def test_balances_at_a_time_have_only_the_entries_up_to_it(market: Marketplace) -> None:
    book = told(market)
    rows = market.execute(
        "SELECT created_at FROM public.funds_ledger_entries WHERE book_id = :id ORDER BY book_seq", id=book.payment
    )
    assert totals(market, at=rows[0].created_at - timedelta(microseconds=1)) == {}
    assert totals(market, at=rows[1].created_at) == {
        "destination": Decimal("100.000001"), "detected": Decimal("10.000001"), "held": Decimal(90),
    }  # fmt: skip


def test_balances_at_a_time_are_recomputed_and_not_believed(market: Marketplace) -> None:
    book = told(market)
    market.execute("UPDATE fleet.ledger_balances SET held = held + 1, treasury = treasury + 1")
    later = datetime.now(UTC) + timedelta(days=1)
    assert totals(market)["held"] == book.balances["held"] + 1
    assert totals(market, at=later)["held"] == book.balances["held"]


def test_other_chains_are_left_out(market: Marketplace) -> None:
    told(market)
    assert totals(market, chain_id=1) == {}


def test_a_statement_runs_to_the_balance_row(market: Marketplace) -> None:
    book = told(market)
    with moment(market.database.engine("fleet_operator")) as connection:
        [asset] = statement(connection, book.payment)
    assert [line.number for line in asset.lines] == list(range(1, len(STORY) + 1))
    assert [line.movement for line in asset.lines][:3] == ["payment_detected:seen", "hold:deep", "adjustment:surplus"]
    assert (asset.lines[1].debit_after, asset.lines[1].credit_after) == (Decimal("10.000001"), Decimal(90))
    row = market.balance(book.payment)
    assert asset.closing == {account: row[account] for account in ACCOUNTS if row[account]}
    facts = {
        row.id: row.transaction_hash for row in market.execute("SELECT id, transaction_hash FROM fleet.chain_facts")
    }
    assert all(line.transaction_hash == facts[line.fact_id] for line in asset.lines if line.fact_id)
    assert {line.poster for line in asset.lines} == {
        "fleet_watcher", "fleet_confirmations", "fleet_sweeps", "fleet_releases",
    }  # fmt: skip


def test_a_reversal_names_what_it_reverses(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(7), 0)
    taken_back(book)
    with moment(market.database.engine("fleet_operator")) as connection:
        [asset] = statement(connection, book.payment)
    assert [(line.reverses, line.reversed_by) for line in asset.lines] == [(None, 2), (1, None)]
    assert asset.closing == {}
    assert [ledger_reports.entry_name(line) for line in asset.lines] == [
        "payment_detected:seen (reversed by no. 2)",
        "adjustment:reorg (reverses no. 1)",
    ]


def taken_back(book: Book) -> None:
    """The last entry's fact left the chain: its exact reverse, as the watcher posts it."""
    _, entry, entry_id = book.posted[-1]
    assert entry.fact_id is not None
    book.market.kill_fact(entry.fact_id)
    with transaction(book.market.database.engine("fleet_watcher")) as connection:
        post(
            connection,
            Entry(
                book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=entry.token,
                entry_type="adjustment", reason="reorg", debit=entry.credit, credit=entry.debit, amount=entry.amount,
                key=f"reverse:{entry_id}", debit_address=entry.credit_address, credit_address=entry.debit_address,
                fact_id=entry.fact_id, reverses_entry_id=entry_id,
            ),
        )  # fmt: skip


def test_a_statement_has_each_asset_of_the_payment(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(7), 0)
    other = "0x" + "bb" * 20
    market.execute("INSERT INTO fleet.tokens VALUES (:c, :t, 'WRONG', 18)", c=CHAIN_ID, t=other)
    fact = market.fact(book.payment, 1)
    market.execute("UPDATE fleet.chain_facts SET token = :t WHERE id = :id", t=other, id=fact)
    with transaction(market.database.engine("fleet_watcher")) as connection:
        post(
            connection,
            Entry(
                book_kind="payment", book_id=book.payment, chain_id=CHAIN_ID, token=other, debit="destination",
                entry_type="payment_detected", reason="seen", credit="detected", amount=Decimal("1e-18"),
                key="other", debit_address="0x" + "11" * 20, fact_id=fact,
            ),
        )  # fmt: skip
    with moment(market.database.engine("fleet_operator")) as connection:
        assets = {asset.token: asset for asset in statement(connection, book.payment)}
    assert assets[TOKEN].closing == {"destination": 7, "detected": 7}
    assert assets[other].closing == {"destination": Decimal("1e-18"), "detected": Decimal("1e-18")}


# Export -----------------------------------------------------------------------------------------------------------


def exported(market: Marketplace, format_: Any, **which: Any) -> list[str]:
    with moment(market.database.engine("fleet_operator")) as connection:
        return list(export(connection, Selection(**which), format_))


def test_csv_and_jsonl_have_every_entry_in_the_order_of_the_seals(market: Marketplace) -> None:
    books = [told(market), told(market)]
    rows = list(csv.DictReader(io.StringIO("".join(exported(market, "csv")), newline="")))
    objects = [json.loads(line) for line in exported(market, "jsonl")]
    order = [str(row.id) for row in market.execute("SELECT id FROM public.funds_ledger_entries ORDER BY tx_id, id")]
    assert len(order) == 2 * len(STORY)
    assert [row["id"] for row in rows] == [one["id"] for one in objects] == order
    assert list(objects[0]) == list(COLUMNS)
    sums = sum(Decimal(row["amount"]) for row in rows if row["book_id"] == str(books[0].payment))
    assert sums == sum(entry.amount for _, entry, _ in books[0].posted)
    assert {row["amount"] for row in rows} >= {"100.000001", "90"}


def test_amounts_are_exact_text(market: Marketplace) -> None:
    market.execute("UPDATE fleet.tokens SET decimals = 18 WHERE token = :t", t=TOKEN)
    payment = market.payment()
    amount = Decimal("12345678901234567890.123456789012345678")
    fact = market.fact(payment, int(str(amount).replace(".", "")))
    with transaction(market.database.engine("fleet_watcher")) as connection:
        post(
            connection,
            Entry(
                book_kind="payment", book_id=payment, chain_id=CHAIN_ID, token=TOKEN, debit="destination",
                entry_type="payment_detected", reason="seen", credit="detected", amount=amount, key="big",
                debit_address="0x" + "11" * 20, fact_id=fact,
            ),
        )  # fmt: skip
    [line] = exported(market, "jsonl")
    assert json.loads(line)["amount"] == "12345678901234567890.123456789012345678"
    assert totals(market)["detected"] == amount
    with moment(market.database.engine("fleet_operator")) as connection:
        assert statement(connection, payment)[0].closing["detected"] == amount


def test_from_is_included_and_to_is_not(market: Marketplace) -> None:
    book = told(market)
    times = [
        row.created_at
        for row in market.execute(
            "SELECT created_at FROM public.funds_ledger_entries WHERE book_id = :id ORDER BY book_seq", id=book.payment
        )
    ]
    assert len(exported(market, "jsonl", since=times[1], until=times[3])) == 2
    assert exported(market, "jsonl", chain_id=1) == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start: str) -> None:
    assert safe_cell(start + "1+1") == "'" + start + "1+1"
    assert safe_cell("1" + start) == "1" + start
    assert safe_cell(None) == ""


def test_a_currency_that_is_a_formula_stays_text(market: Marketplace) -> None:
    market.execute("UPDATE fleet.tokens SET symbol = '=1+1'")
    move(book_of(market), "seen", Decimal(1), 0)
    [row] = csv.DictReader(io.StringIO("".join(exported(market, "csv")), newline=""))
    assert row["currency"] == "'=1+1"


def many_entries(market: Marketplace, book: UUID, times: int) -> None:
    """Copies of one book's entry by an administrator with triggers off: only their number matters."""
    with market.database.engine().begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        columns = [
            row.column_name
            for row in connection.execute(
                text(
                    "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
                    "AND table_name = 'funds_ledger_entries' AND is_generated = 'NEVER' "
                    "AND column_name NOT IN ('id', 'idempotency_key', 'book_seq', 'fact_id')"
                )
            )
        ]
        names = ", ".join(columns)
        connection.execute(
            text(
                f"INSERT INTO public.funds_ledger_entries (id, idempotency_key, book_seq, {names}) "
                f"SELECT gen_random_uuid(), 'copy:' || n, n, {names} FROM public.funds_ledger_entries "
                "CROSS JOIN generate_series(2, :times) AS n WHERE book_id = :id"
            ),
            {"id": book, "times": times},
        )
        connection.execute(text("RESET session_replication_role"))


def peak_of(market: Marketplace, rows: int) -> int:
    """The most memory Python held while it read ``rows`` lines of an export, bytes."""
    with moment(market.database.engine("fleet_operator")) as connection:
        lines = export(connection, Selection(), "csv")
        list(islice(lines, 1))
        tracemalloc.start()
        try:
            read = sum(1 for _ in islice(lines, rows))
            assert read == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(market: Marketplace) -> None:
    book = book_of(market)
    move(book, "seen", Decimal(1), 0)
    rows = declared(20, 6) * ROWS_AT_ONCE
    many_entries(market, book.payment, rows)
    few, many = peak_of(market, 2 * ROWS_AT_ONCE), peak_of(market, rows)
    assert many < 1.5 * few


# The commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of ``fleet ledger`` as an operator; its standard output."""
    import typer

    configured = load_settings(database_url=market.database.url("fleet_operator"))
    monkeypatch.setattr(ledger_reports, "settings", lambda: configured)
    app, group = typer.Typer(), typer.Typer()
    ledger_reports.add_to(group, app)

    def run(*arguments: str, exit_code: int = 0) -> str:
        result = RUNNER.invoke(group, arguments)
        assert result.exit_code == exit_code, result.output
        return result.stdout if exit_code == 0 else result.output

    return run


def test_the_commands_tell_the_same(market: Marketplace, command: Any, tmp_path: Path) -> None:
    book = told(market)
    found = json.loads(command("balances", "--json", "--payment", str(book.payment)))
    assert {one["account"]: Decimal(one["amount"]) for one in found} == totals(market)
    assert json.loads(command("balances", "--json", "--at", "2020-01-01")) == []
    printed = command("statement", str(book.payment))
    assert "hold:deep" in printed
    assert "closing: " in printed
    [asset] = json.loads(command("statement", str(book.payment), "--json"))["assets"]
    assert [one["number"] for one in asset["entries"]] == list(range(1, len(STORY) + 1))
    out = tmp_path / "ledger.csv"
    command("export", "--format", "csv", "--out", str(out))
    assert out.read_bytes().decode() == "".join(exported(market, "csv"))
    assert command("export", "--format", "jsonl") == "".join(exported(market, "jsonl"))
    assert list(tmp_path.iterdir()) == [out]


def test_a_time_that_is_none_is_refused_with_an_example(command: Any) -> None:
    assert "expected ISO 8601" in command("balances", "--at", "yesterday", exit_code=2)
    assert "no payment is called" in command("statement", "nobody", exit_code=1)
