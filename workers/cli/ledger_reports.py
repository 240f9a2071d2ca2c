"""``fleet ledger balances|statement|export|escrow``: the books for those who keep and audit them."""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from sqlalchemy import Connection

from custody.ledger.reports.balances import AccountTotal, account_totals, by_asset
from custody.ledger.reports.export import Format, Selection, count, export
from custody.ledger.reports.moment import moment
from custody.ledger.reports.statement import AssetStatement, Line, statement
from custody.payments.story import PaymentUnknown, find_payment
from custody.settings.environment import settings
from custody.store.engine import open_engine
from workers.cli.terminal import shown

STATEMENT_WIDTH: Final = 140  # characters; below it accounts and amounts would be cut
TRANSACTION_WIDTH: Final = 34  # half a transaction hash
PROGRESS_EVERY: Final = 1_000  # lines between two looks at the progress bar

PaymentArgument = Annotated[
    str, typer.Argument(help="payment id, Mongo id, request id, payment reference or transaction hash")
]
ChainOption = Annotated[int | None, typer.Option("--chain", help="one chain's id; default: all")]
JsonOption = Annotated[bool, typer.Option("--json", help="the same as JSON, amounts as text")]


def moment_of(given: str, option: str) -> datetime:
    """An ISO 8601 time; without an offset it is UTC. Raises BadParameter."""
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(
            f"{given!r} is no time: expected ISO 8601, such as 2026-11-23 or 2026-11-23T06:00:00Z", param_hint=option
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _payment(connection: Connection, name: str) -> Any:
    try:
        return find_payment(connection, name)
    except PaymentUnknown as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def balances(
    at: Annotated[
        str | None, typer.Option("--at", help="as the entries made up to then say; ISO 8601, UTC without an offset")
    ] = None,
    payment: Annotated[str | None, typer.Option("--payment", help="of one payment's book alone")] = None,
    chain: ChainOption = None,
    as_json: JsonOption = False,
) -> None:
    """Account totals by chain and token: now from the balance rows, or at a time from the entries up to it."""
    when = None if at is None else moment_of(at, "--at")
    engine = open_engine(settings().secret("database_url"), application="fleet-ledger-balances", pool_size=1)
    try:
        with moment(engine) as connection:
            payment_id = None if payment is None else _payment(connection, payment)
            totals = account_totals(connection, at=when, payment_id=payment_id, chain_id=chain)
    finally:
        engine.dispose()
    if as_json:
        _print_json([_total_json(total) for total in totals])
        return
    if not totals:
        typer.echo("nothing is booked there")
        return
    console = Console(soft_wrap=True)
    for (chain_id, token), rows in by_asset(totals).items():
        console.print(_totals_table(f"{rows[0].symbol} on chain {chain_id} ({token})", rows))


def _total_json(total: AccountTotal) -> dict[str, Any]:
    return {
        "chain_id": total.chain_id,
        "token": total.token,
        "symbol": total.symbol,
        "account": total.account,
        "side": total.side,
        "amount": f"{total.amount:f}",
    }


def _totals_table(title: str, rows: Iterable[AccountTotal]) -> Table:
    table = Table("account", Column("debit", justify="right"), Column("credit", justify="right"), title=title)
    for row in rows:
        amount = f"{row.amount:f}"
        table.add_row(row.account, *((amount, "") if row.side == "debit" else ("", amount)))
    return table


def statement_(payment: PaymentArgument, as_json: JsonOption = False) -> None:
    """A payment's statement: each entry with the balances it left, and what closes."""
    engine = open_engine(settings().secret("database_url"), application="fleet-ledger-statement", pool_size=1)
    try:
        with moment(engine) as connection:
            payment_id = _payment(connection, payment)
            assets = statement(connection, payment_id)
    finally:
        engine.dispose()
    if as_json:
        _print_json({"payment": str(payment_id), "assets": [_asset_json(asset) for asset in assets]})
        return
    console = Console(soft_wrap=True)
    console.width = max(console.width, STATEMENT_WIDTH)
    console.print(f"Statement of payment {payment_id}", style="bold")
    if not assets:
        console.print("nothing is booked yet")
    for asset in assets:
        console.print(f"\n{asset.symbol} on chain {asset.chain_id} ({asset.token})")
        console.print(_statement_table(asset.lines))
        closing = ", ".join(f"{account} {amount:f}" for account, amount in asset.closing.items())
        console.print(f"closing: {closing or 'every account is empty'}")


def _statement_table(lines: Iterable[Line]) -> Table:
    """Two rows of text an entry: what moved, and below each account what it holds after."""
    table = Table("date (UTC)", "no.", "entry", "debit", "credit", Column("amount", justify="right"))
    table.add_column("transaction", overflow="fold", min_width=TRANSACTION_WIDTH)
    for line in lines:
        table.add_row(
            f"{line.at:%Y-%m-%d %H:%M:%S}",
            str(line.number),
            f"{entry_name(line)}\nby {line.poster}",
            f"{line.debit}\n= {line.debit_after:f}",
            f"{line.credit}\n= {line.credit_after:f}",
            f"{line.amount:f}",
            shown(line.transaction_hash or ""),
        )
    return table


def entry_name(line: Line) -> str:
    """``type:reason``, and which entry it takes back or is taken back by."""
    if line.reverses is not None:
        return f"{line.movement} (reverses no. {line.reverses})"
    return line.movement + (f" (reversed by no. {line.reversed_by})" if line.reversed_by is not None else "")


def _asset_json(asset: AssetStatement) -> dict[str, Any]:
    return {
        "chain_id": asset.chain_id,
        "token": asset.token,
        "symbol": asset.symbol,
        "entries": [
            {
                "id": str(line.entry_id),
                "at": line.at.isoformat(),
                "number": line.number,
                "movement": line.movement,
                "debit": line.debit,
                "credit": line.credit,
                "amount": f"{line.amount:f}",
                "debit_after": f"{line.debit_after:f}",
                "credit_after": f"{line.credit_after:f}",
                "poster": line.poster,
                "transaction_hash": line.transaction_hash,
                "fact_id": None if line.fact_id is None else str(line.fact_id),
                "instruction_id": None if line.instruction_id is None else str(line.instruction_id),
                "reverses": line.reverses,
                "reversed_by": line.reversed_by,
            }
            for line in asset.lines
        ],
        "closing": {account: f"{amount:f}" for account, amount in asset.closing.items()},
    }


def export_(
    format_: Annotated[Format, typer.Option("--format", help="csv (RFC 4180, with a header) or jsonl")],
    since: Annotated[str | None, typer.Option("--from", help="entries made at or after this time (ISO 8601)")] = None,
    until: Annotated[str | None, typer.Option("--to", help="entries made before this time (ISO 8601)")] = None,
    chain: ChainOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Every entry, streamed in the order (tx_id, id) that the seals have; amounts as exact decimal text.

    A file appears under its name only when it is whole.
    """
    selection = Selection(
        None if since is None else moment_of(since, "--from"),
        None if until is None else moment_of(until, "--to"),
        chain,
    )
    engine = open_engine(settings().secret("database_url"), application="fleet-ledger-export", pool_size=1)
    try:
        with moment(engine) as connection:
            lines = export(connection, selection, format_)
            if out is None:
                sys.stdout.writelines(lines)
            else:
                total = count(connection, selection)
                _write(out, lines, total)
                typer.echo(f"{out}: {total} entries")
    finally:
        engine.dispose()


def _write(out: Path, lines: Iterator[str], total: int) -> None:
    part = out.with_name(out.name + ".part")
    columns = (TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with (
            part.open("w", encoding="utf-8", newline="") as file,
            Progress(*columns, console=Console(stderr=True), transient=True) as bar,
        ):
            task = bar.add_task("entries", total=total)
            for number, line in enumerate(lines, start=1):
                file.write(line)
                if number % PROGRESS_EVERY == 0:
                    bar.update(task, completed=number)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def add_to(ledger: typer.Typer, app: typer.Typer) -> None:
    """Add the reports to ``fleet ledger``; the proof of escrow also has the short name ``fleet books``."""
    from workers.cli.escrow import escrow

    ledger.command("balances")(balances)
    ledger.command("statement")(statement_)
    ledger.command("export")(export_)
    ledger.command("escrow")(escrow)
    app.command("books", help="Short for: fleet ledger escrow.")(escrow)
