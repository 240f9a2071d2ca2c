"""``fleet gaps``: documents that one store has and the other could not take."""

import json
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.ledger.adjustments import open_actions, withdraw
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.actions import Agreed, By, Reason, as_operator, print_actions
from workers.cli.mirror_backfill import both_stores
from workers.cli.terminal import shown

if TYPE_CHECKING:
    from custody.mirror.gaps import Gap

gaps = typer.Typer(help="Documents that one store has and the other could not take.", no_args_is_help=True)

PAUSED_SHOWN: Final = 50  # a screen; a changed Trezor account may pause each payment of its seller

GapId = Annotated[UUID, typer.Argument(metavar="ID", help="the gap's id, as fleet gaps list shows it")]


@gaps.command("list")
def list_(
    collection: Annotated[str | None, typer.Option(help="only of this collection")] = None,
    severity: Annotated[str | None, typer.Option(help="only warning, error or security")] = None,
    everything: Annotated[bool, typer.Option("--all", help="those that are closed as well")] = False,
) -> None:
    """Open gaps, the newest first. Exit code 1 if there is any."""
    from custody.mirror.gaps import count, listed
    from custody.mirror.security_gaps import KIND

    engine = open_engine(settings().secret("database_url"), application="fleet-gaps", pool_size=1)
    try:
        with transaction(engine) as connection:
            waiting = open_actions(connection, KIND)
            found = listed(connection, collection=collection, severity=severity, resolved=everything)
            there = count(connection, collection=collection, severity=severity, resolved=everything)
            still_open = count(connection, collection=collection, severity=severity)
    finally:
        engine.dispose()
    console = Console()
    if not found:
        console.print("no gap is open" if not everything else "there is no gap", style="green")
        return
    table = Table(
        "since", "severity", *(Column(name, overflow="fold") for name in ("document", "why", "closed", "id")), box=None
    )
    for each in found:
        closed = f"{each.resolved_at:%Y-%m-%d %H:%M} {each.resolved_by}: {each.resolution}" if each.resolved_at else ""
        table.add_row(
            f"{each.created_at:%Y-%m-%d %H:%M}",
            shown(each.severity),
            shown(f"{each.collection} {each.object_id} ({each.op})"),
            shown(each.reason),
            shown(closed),
            str(each.id),
        )
    console.print(table)
    if there > len(found):
        console.print(f"and {there - len(found):,} older ones")
    print_actions(
        console,
        waiting,
        "proposed to be closed; signed by two it is: fleet gaps agree ACTION --hash HASH --by NAME",
        lambda action: f"{action.parameters['gap']}{', written again' if action.parameters['write_again'] else ''}",
    )
    if still_open:
        raise typer.Exit(1)


@gaps.command()
def show(gap_id: GapId) -> None:
    """One gap with what it kept of the document, as MongoDB's Extended JSON; credentials are withheld."""
    from custody.mirror.gaps import one
    from custody.mirror.security_gaps import payments_paused_by

    with as_operator("fleet-gaps") as connection:
        gap = one(connection, gap_id)
        paused = payments_paused_by(connection, gap_id, limit=PAUSED_SHOWN)
    console = Console()
    for payment_id in paused:
        console.print(f"pauses payment {payment_id}")
    for name in (
        "id",
        "collection",
        "object_id",
        "op",
        "severity",
        "reason",
        "created_at",
        "resolved_at",
        "resolved_by",
        "resolution",
    ):
        value = getattr(gap, name)
        if value is not None:
            console.print(shown(f"{name}: {value}"))
    typer.echo(json.dumps(json.loads(gap.payload or "null"), indent=2))


@gaps.command()
def replay(
    gap_ids: Annotated[
        list[UUID] | None,
        typer.Argument(metavar="[ID]...", help="these gaps; none: all open ones of a backfill and of following"),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="only of this collection")] = None,
) -> None:
    """Bring gaps' documents over again, from what MongoDB says of them now; a gap that is closed by it is gone.

    Needs DATABASE_ADMIN_URL on a host of BACKFILL_DATABASE_HOSTS, MONGO_URL and MONGO_DATABASE. Exit code 1 if one stays open.
    """
    from custody.mirror.backfill import replay as bring_over
    from custody.mirror.following import replay as follow_again
    from custody.mirror.gaps import GapRefused, listed, one

    console = Console()
    stay = 0
    with both_stores("fleet-gaps-replay") as (engine, database):
        found: list[Gap] = []
        try:
            with transaction(engine) as connection:
                if gap_ids:
                    found = [one(connection, gap_id) for gap_id in gap_ids]
                else:
                    # The oldest first: others may wait for it.
                    found = [
                        gap
                        for op in ("backfill", "follow")
                        for gap in listed(connection, collection=collection, op=op, limit=10_000)[::-1]
                        if gap.severity != "security" or op == "backfill"
                    ]
            for gap in found:
                left = (follow_again if gap.op == "follow" else bring_over)(engine, database, gap)
                stay += left is not None
                console.print(shown(f"{gap.collection} {gap.object_id}: {'brought over' if left is None else left}"))
        except GapRefused as error:
            typer.secho(str(error), fg="red", err=True)
            raise typer.Exit(2) from None
    if not found:
        console.print("no gap of a backfill or of following is open", style="green")
    if stay:
        raise typer.Exit(1)


@gaps.command()
def resolve(
    gap_id: GapId,
    by: By,
    reason: Reason,
    write_again: Annotated[
        bool, typer.Option("--write-again", help="of severity security: write the fleet's values to MongoDB again")
    ] = False,
) -> None:
    """Close a gap by hand: the document stays as it is in both stores.

    One of severity security pauses payments, so that this only proposes it. Then:

    1. two persons sign it on their devices: fleet signer approve

    2. another person than who proposed closes it: fleet gaps agree ACTION --hash HASH --by OTHER, with the hash that fleet
    gaps list shows. The payments go on; with --write-again the mirror writes the fleet's values to MongoDB first thing.
    """
    from custody.mirror.gaps import one
    from custody.mirror.gaps import resolve as close
    from custody.mirror.security_gaps import propose_resolution

    with as_operator("fleet-gaps") as connection:
        gap = one(connection, gap_id)
        if gap.severity == "security" and gap.resolved_at is None:
            action = propose_resolution(connection, gap_id, write_again=write_again, reason=reason, by=by)
            typer.echo(
                f"proposed as {action}; two persons sign it (fleet signer approve), then another closes the gap: fleet gaps "
                f"agree {action} --hash HASH --by OTHER (fleet gaps list shows the hash)"
            )
            return
        if write_again:
            raise ValueError("--write-again: only for an open gap of severity security")
        is_new = close(connection, gap_id, by=by, reason=reason)
    typer.echo("closed" if is_new else "it was closed already")


@gaps.command()
def agree(action: UUID, by: By, agreed: Agreed) -> None:
    """Close the security gap that another person proposed to close and two signed; the payments that it paused go on."""
    from custody.mirror.security_gaps import execute_resolution

    with as_operator("fleet-gaps") as connection:
        gap_id = execute_resolution(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"gap {gap_id} is closed; what it paused goes on in the workers' next round")


@gaps.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal without closing the gap."""
    with as_operator("fleet-gaps") as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def register(app: typer.Typer) -> None:
    app.add_typer(gaps, name="gaps")
