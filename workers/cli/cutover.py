"""``fleet cutover``: which store each domain is read from, what stands against the next one, and two persons' change of it."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.cutovers import DOMAINS, KIND, Domain, DomainStanding, execute_cutover, propose_cutover, standing_of
from custody.ledger.adjustments import open_actions, withdraw
from custody.settings.environment import Store, settings
from workers.cli.actions import Agreed, By, Reason, as_operator, print_actions
from workers.cli.terminal import ago, shown

cutover = typer.Typer(
    no_args_is_help=True,
    help="Which store decides of a domain: MongoDB, both beside each other, or Postgres.",
    rich_markup_mode="rich",
)

To = Annotated[Literal["mongo", "dual", "pg"], typer.Option("--to", help="where it is to be read from")]


@cutover.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False) -> None:
    """Each domain: its store now, how far it is brought over, its gaps, its comparisons, and what stands against the next
    cutover. Exit code 0 whatever it says.
    """
    with as_operator("fleet-cutover") as connection:
        found = [standing_of(connection, domain) for domain in DOMAINS]
        waiting = open_actions(connection, KIND)
    estimates = _estimates(found)
    if as_json:
        sys.stdout.write(json.dumps([_as_dict(each, estimates) for each in found], indent=2) + "\n")
        return
    console = Console()
    now = datetime.now(UTC)
    table = Table(
        "domain",
        "store",
        "brought over",
        Column("open gaps", overflow="fold"),
        Column("compared", overflow="fold"),
        Column("shadow reads", overflow="fold"),
        box=None,
    )
    for each in found:
        percent = each.backfilled_percent(estimates)
        age = "never" if each.compared_at is None else ago(each.compared_at, now)
        table.add_row(
            each.domain,
            (each.store or "unknown") + (f" since {each.since:%Y-%m-%d %H:%M}" if each.since else ""),
            "unknown" if percent is None else f"{percent:f} %",
            ", ".join(f"{count} {severity}" for severity, count in sorted(each.open_gaps.items())) or "none",
            age if each.compared_at is None else f"{age}, {'equal' if each.is_equal else 'different'}",
            f"{each.compared} compared, {each.mismatched} differed, {each.agreed} agreed since",
            style=None if each.store else "red",
        )
    console.print(table)
    for each in found:
        if not each.refusals:
            console.print(f"\n{each.domain}: nothing stands against --to {each.next_store}", style="green")
            continue
        console.print(f"\n{each.domain}: against --to {each.next_store} stands:")
        for sentence in each.refusals:
            console.print(shown(f"  - {sentence}"))
    if estimates is None:
        console.print("\nMongoDB was not asked for its counts: set MONGO_URL, or see whether it answers.")
    print_actions(
        console,
        waiting,
        "proposed; signed by two it is executed with: fleet cutover agree ACTION --hash HASH --by NAME",
        lambda action: f"{action.parameters['domain']}: {action.parameters['from']} > {action.parameters['to']}",
    )


def _propose(domain: Domain) -> None:
    def propose(to: To, by: By, reason: Reason) -> None:
        with as_operator("fleet-cutover") as connection:
            action = propose_cutover(connection, domain, _store(to), reason=reason, by=by)
        typer.echo(
            f"proposed as {action}; two persons sign it (fleet signer approve), then another cuts over: fleet cutover agree "
            f"{action} --hash HASH --by OTHER (fleet cutover status shows the hash)"
        )

    propose.__doc__ = f"""Propose where {domain} is read from. Nothing changes yet.

    Refused with everything that stands against it, and judged once more when it is executed. Then:

    1. two persons sign it on their devices: [bold]fleet signer approve[/bold]

    2. another person than who proposed executes it: [bold]fleet cutover agree ACTION --hash HASH --by OTHER[/bold]

    Back from pg goes by way of dual, while MongoDB has all that Postgres took.
    """
    cutover.command(domain)(propose)


for _domain in DOMAINS:
    _propose(_domain)


@cutover.command()
def agree(action: UUID, by: By, agreed: Agreed) -> None:
    """Execute the cutover that another person proposed and two signed; the releases worker follows in its next round."""
    with as_operator("fleet-cutover") as connection:
        number = execute_cutover(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"cutover {number} is executed; the releases worker reads so from its next round on, without a restart")


@cutover.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal without cutting over."""
    with as_operator("fleet-cutover") as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def _store(said: str) -> Store:
    for each in get_args(Store):
        if each == said:
            return each
    raise ValueError(f"to: expected one of {', '.join(get_args(Store))}")


def _estimates(found: list[DomainStanding]) -> dict[str, int] | None:
    """About how many documents MongoDB has of each collection; None where it was not asked or does not answer."""
    configured = settings()
    if configured.mongo_url is None:
        return None
    from pymongo.errors import PyMongoError

    from custody.store.mongo import open_mongo

    try:
        with open_mongo(configured.secret("mongo_url"), application="fleet-cutover") as client:
            database = client[configured.mongo_database]
            names = [each.name for one in found for each in one.collections]
            return {name: database[name].estimated_document_count() for name in names}
    except PyMongoError:
        return None


def _as_dict(found: DomainStanding, estimates: Mapping[str, int] | None) -> dict[str, Any]:
    percent = found.backfilled_percent(estimates)
    return {
        "domain": found.domain,
        "store": found.store,
        "backfilled_percent": None if percent is None else f"{percent:f}",
        "open_gaps": found.open_gaps,
        "compared_at": None if found.compared_at is None else found.compared_at.isoformat(),
        "is_equal": found.is_equal,
        "shadow_reads": {"compared": found.compared, "mismatched": found.mismatched, "agreed": found.agreed},
        "next_store": found.next_store,
        "refusals": list(found.refusals),
        "evidence": found.evidence,
    }


def register(app: typer.Typer) -> None:
    app.add_typer(cutover, name="cutover")
