"""``fleet destinations``: the addresses that buyers pay to; any one guard stops one, two persons let it go (R10, R13)."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from time import monotonic
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from custody.destinations.bulk_audit import AuditReport, audit_everything, destination_count
from custody.destinations.quarantine import (
    DestinationState,
    Story,
    find_destination,
    propose_release,
    quarantine,
    release,
    story_of,
)
from custody.destinations.quarantine import destinations as list_destinations
from custody.ledger.adjustments import open_actions, withdraw
from workers.cli.actions import Agreed, By, Reason, as_operator, print_actions
from workers.cli.ledger import ledger_as_it_is
from workers.cli.terminal import shown

destinations = typer.Typer(no_args_is_help=True, help="The addresses that buyers pay to.", rich_markup_mode="rich")

DIFFERENCES_SHOWN: Final = 100  # what a person reads; --json has them all up to 1,000

_KIND: Final = "readmit"

AsJson = Annotated[bool, typer.Option("--json", help="the same as JSON")]
Named = Annotated[str, typer.Argument(metavar="DESTINATION", help="its id or its address")]


class Status(StrEnum):
    """The seed's derived_destination_status."""

    ACTIVE = "active"
    SWEEPING = "sweeping"
    SWEPT = "swept"
    QUARANTINED = "quarantined"


@destinations.command("list")
def list_(
    status: Annotated[Status | None, typer.Option(help="only those in this state")] = None,
    chain: Annotated[int | None, typer.Option(help="one chain's id; default: all")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="the most that are shown")] = 50,
    as_json: AsJson = False,
) -> None:
    """The addresses, what changed last first, and who waits for one to be released.

    [bold]fleet destinations list --status quarantined[/bold] shows those that are stopped, and why.
    """
    with as_operator("fleet-destinations") as connection:
        found = list_destinations(connection, status=status, chain_id=chain, limit=limit)
        waiting = open_actions(connection, _KIND)
    if as_json:
        sys.stdout.write(json.dumps([_as_dict(each) for each in found], indent=2) + "\n")
        return
    console = Console()
    table = Table(
        "id",
        "chain",
        Column("address", overflow="fold"),
        "status",
        "balance",
        "sweeps",
        Column("why", overflow="fold"),
        box=None,
    )
    for each in found:
        table.add_row(
            str(each.id),
            str(each.chain_id),
            each.address,
            each.status,
            str(each.balance_units),
            str(each.sweep_count),
            shown(each.quarantine_reason or ""),
            style="red" if each.status == "quarantined" else None,
        )
    console.print(table if found else "no address is so; see: fleet destinations list")
    print_actions(
        console,
        waiting,
        "proposed to be released; signed by two it is: fleet destinations agree ACTION --hash HASH --by NAME",
        lambda action: action.parameters["address"],
    )


@destinations.command()
def show(named: Named, as_json: AsJson = False) -> None:
    """One address: where it comes from, its payments and what each has there, its sweeps, and why it is stopped."""
    with as_operator("fleet-destinations") as connection:
        found = find_destination(connection, named)
        story = story_of(connection, found.id)
        waiting = [each for each in open_actions(connection, _KIND) if each.parameters["destination"] == str(found.id)]
    if as_json:
        rows = {"payments": story.payments, "jobs": story.jobs}
        said = {name: [{k: _plain(v) for k, v in row._mapping.items()} for row in some] for name, some in rows.items()}
        audit = {"audited_at": _plain(story.audited_at), "is_derived": story.is_derived}
        sys.stdout.write(json.dumps(_as_dict(found) | said | audit, indent=2) + "\n")
        return
    console = Console()
    _show(console, found, story)
    print_actions(
        console,
        waiting,
        "proposed to be released; signed by two it is: fleet destinations agree ACTION --hash HASH --by NAME",
        lambda action: action.parameters["address"],
    )


@destinations.command("quarantine")
def quarantine_(named: Named, by: By, reason: Reason) -> None:
    """Stop an address at once: nothing more is swept from it. Any one guard may; letting it go takes two persons.

    What comes there is still seen and booked. A transfer that is signed already may still be mined.
    """
    with as_operator("fleet-destinations") as connection:
        found = find_destination(connection, named)
        is_new = quarantine(connection, found.id, reason=reason, by=by)
    if is_new:
        typer.echo(f"destination {found.id} ({found.address}) is quarantined")
    else:
        typer.echo(f"destination {found.id} was quarantined already; its reason stands: {found.quarantine_reason}")


@destinations.command("release")
def release_(named: Named, by: By, reason: Reason) -> None:
    """Propose that a quarantined address is used again. Nothing changes yet.

    Bound to this very quarantine and to the sweeps that failed before it: if more happens, it is proposed anew. Then:

    1. two persons sign it on their devices: [bold]fleet signer approve[/bold]

    2. another person than who proposed releases it: [bold]fleet destinations agree ACTION --hash HASH --by OTHER[/bold], with
    the hash that [bold]fleet destinations list[/bold] shows

    What sanctioned senders paid is not released by this: it stays locked in suspense (fleet sanctions).
    """
    with as_operator("fleet-destinations") as connection:
        found = find_destination(connection, named)
        action = propose_release(connection, found.id, reason=reason, by=by)
    typer.echo(
        f"proposed as {action}; two persons sign it (fleet signer approve), then another releases it: fleet destinations "
        f"agree {action} --hash HASH --by OTHER (fleet destinations show {found.id} shows the hash)"
    )


@destinations.command()
def agree(action: UUID, by: By, agreed: Agreed) -> None:
    """Release the address that another person proposed to release and two signed, and settle its failed sweeps."""
    with as_operator("fleet-destinations") as connection:
        destination = release(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"destination {destination} is released; what lies there is swept at the next pass")


@destinations.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal without releasing the address."""
    with as_operator("fleet-destinations") as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str | bool) else str(value)


def _as_dict(found: DestinationState) -> dict[str, Any]:
    said = asdict(found)
    amounts = {"balance_units": str(found.balance_units), "swept_units": str(found.swept_units)}
    return {name: _plain(value) for name, value in (said | amounts).items()}


def _show(console: Console, found: DestinationState, story: Story) -> None:
    facts = Table.grid(padding=(0, 2))
    derived = {None: "not audited yet", True: "comes from its account", False: "does NOT come from its account (R20)"}
    audited = "" if story.audited_at is None else f", audited {story.audited_at:%Y-%m-%d %H:%M}"
    for name, value in (
        ("destination", str(found.id)),
        ("address", f"{found.address} on chain {found.chain_id}"),
        ("status", found.status + ("" if found.quarantine_reason is None else f": {found.quarantine_reason}")),
        (
            "derived",
            f"{found.derivation_path} of account {found.account or 'unknown'}; {derived[story.is_derived]}{audited}",
        ),
        ("balance", f"{found.balance_units} smallest units in the books"),
        ("swept", f"{found.swept_units} smallest units in {found.sweep_count} sweeps"),
        ("issued", f"{found.created_at:%Y-%m-%d %H:%M}"),
    ):
        facts.add_row(name, shown(value))
    console.print(facts)
    payments = Table("payment", "state", "expected", "at the address", "in suspense", "locked (sanctioned)", box=None)
    for row in story.payments:
        payments.add_row(
            str(row.payment_id),
            f"{row.status}/{row.escrow_state or 'no escrow'}",
            f"{row.expected.normalize():f} {row.symbol}",
            *(f"{each.normalize():f}" for each in (row.at_address, row.suspense, row.sanctioned)),
        )
    if payments.row_count:
        console.print(payments)
    jobs = Table("sweep", "state", "strategy", "units", Column("why", overflow="fold"), "since", box=None)
    for row in story.jobs:
        jobs.add_row(
            str(row.id),
            row.state,
            row.strategy,
            str(row.amount_units),
            shown(row.reason or ""),
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
    if jobs.row_count:
        console.print(jobs)


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
