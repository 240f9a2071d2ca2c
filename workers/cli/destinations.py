"""``fleet destinations``: the addresses that buyers pay to."""

import json
import sys
from time import monotonic
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from custody.destinations.bulk_audit import AuditReport, audit_everything, destination_count
from workers.cli.ledger import ledger_as_it_is
from workers.cli.terminal import shown

destinations = typer.Typer(no_args_is_help=True, help="The addresses that buyers pay to.", rich_markup_mode="rich")

DIFFERENCES_SHOWN: Final = 100  # what a person reads; --json has them all up to 1,000

AsJson = Annotated[bool, typer.Option("--json", help="the same as JSON")]


@destinations.command()
def audit(as_json: AsJson = False) -> None:
    """Derive every address ever issued again from its account's xpub, and name each row that differs.

    It reads one moment of the database and changes nothing; a row that differs is quarantined by the audit of each
    minute. Found are: an address, path or index that its account does not derive; an index that was never issued; an
    issued index whose row is gone. What differs may be an address of whoever wrote the row: stop it with
    [bold]fleet destinations quarantine[/bold], and compare with a backup.

    Exit code 0 if every row is its account's, 1 if one differs, 2 if the audit could not be made.
    """
    console = Console(stderr=True)
    with ledger_as_it_is("fleet-destinations-audit") as connection:
        columns = (
            SpinnerColumn(),
            TextColumn("addresses"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        started, read = monotonic(), 0
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("audit", total=destination_count(connection), rate="")

            def advance(rows: int) -> None:
                nonlocal read
                read += rows
                bar.update(task, advance=rows, rate=_rate(read, monotonic() - started))

            report = audit_everything(connection, advance)
        seconds = monotonic() - started
    if as_json:
        sys.stdout.write(json.dumps(report.as_json() | {"seconds": round(seconds, 3)}, indent=2) + "\n")
    else:
        _print(report, seconds)
    if not report.ok:
        raise typer.Exit(1)


def _rate(rows: int, seconds: float) -> str:
    return f"{rows / seconds:,.0f}/s" if seconds else ""


def _print(report: AuditReport, seconds: float) -> None:
    console = Console(soft_wrap=True)
    if report.differences:
        table = Table(
            "index", "chain", *(Column(name, overflow="fold") for name in ("destination", "address", "expected"))
        )
        for each in report.differences[:DIFFERENCES_SHOWN]:
            table.add_row(
                str(each.index),
                "" if each.chain_id is None else str(each.chain_id),
                each.destination or "",
                shown(each.address or ""),
                shown(each.expected),
            )
        console.print(table)
        if report.differing > DIFFERENCES_SHOWN:
            console.print(f"and {report.differing - DIFFERENCES_SHOWN} more; see --json", style="red")
    console.print(
        f"{report.audited} addresses of {len(report.accounts)} deposit accounts; {seconds:.1f} s, "
        f"{_rate(report.audited, seconds)}"
    )
    if report.ok:
        console.print("every address is its account's", style="green")
    else:
        console.print(f"{report.differing} differ: pay nothing there until it is known why (R20)", style="red")


def register(app: typer.Typer) -> None:
    app.add_typer(destinations, name="destinations")
