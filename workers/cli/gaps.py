"""``fleet gaps``: documents that one store has and the other could not take."""

import json
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.actions import as_operator
from workers.cli.mirror_backfill import both_stores
from workers.cli.terminal import shown

if TYPE_CHECKING:
    from custody.mirror.gaps import Gap

gaps = typer.Typer(help="Documents that one store has and the other could not take.", no_args_is_help=True)

GapId = Annotated[UUID, typer.Argument(metavar="ID", help="the gap's id, as fleet gaps list shows it")]


@gaps.command("list")
def list_(
    collection: Annotated[str | None, typer.Option(help="only of this collection")] = None,
    severity: Annotated[str | None, typer.Option(help="only warning, error or security")] = None,
    everything: Annotated[bool, typer.Option("--all", help="those that are closed as well")] = False,
) -> None:
    """Open gaps, the newest first. Exit code 1 if there is any."""
    from custody.mirror.gaps import count, listed

    engine = open_engine(settings().secret("database_url"), application="fleet-gaps", pool_size=1)
    try:
        with transaction(engine) as connection:
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
    if still_open:
        raise typer.Exit(1)


@gaps.command()
def show(gap_id: GapId) -> None:
    """One gap with what it kept of the document, as MongoDB's Extended JSON; credentials are withheld."""
    from custody.mirror.gaps import one

    with as_operator("fleet-gaps") as connection:
        gap = one(connection, gap_id)
    console = Console()
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
    by: Annotated[str, typer.Option(help="who closes it (a label, never an authority)")],
    reason: Annotated[str, typer.Option(help="why, at most 500 characters")],
) -> None:
    """Close a gap by hand: the document stays as it is in both stores."""
    from custody.mirror.gaps import resolve as close

    with as_operator("fleet-gaps") as connection:
        is_new = close(connection, gap_id, by=by, reason=reason)
    typer.echo("closed" if is_new else "it was closed already")


def register(app: typer.Typer) -> None:
    app.add_typer(gaps, name="gaps")
