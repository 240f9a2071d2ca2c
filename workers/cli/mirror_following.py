"""``fleet mirror following``: how far Postgres has followed MongoDB."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from workers.cli.actions import as_operator
from workers.cli.terminal import shown

SILENT_SECONDS: Final = 60
"""A follower says where it is every few seconds, whatever happens in MongoDB."""


def following(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
) -> None:
    """How far Postgres has followed MongoDB, by which way, and what waits to be looked at again.

    [bold]stream[/bold]: by MongoDB's change stream. [bold]catching_up[/bold]: documents are read by the time of their last change,
    since the stream's place was lost or following has just begun. [bold]scan[/bold]: MongoDB offers no stream; documents are read
    so every few seconds. Exit code 1 when nothing was followed yet, or nothing was heard for longer than a minute.
    """
    from custody.mirror.following import EVERYTHING, everywhere, lag_seconds, revisits

    with as_operator("fleet-mirror-following") as connection:
        rows = everywhere(connection)
        again = revisits(connection)
    now = datetime.now(UTC)
    lags = {row.name: lag_seconds(row, now) for row in rows}
    said = [
        {
            "name": "everything" if row.name == EVERYTHING else row.name,
            "mode": row.mode,
            "reason": row.reason,
            "seconds_behind": round(lags[row.name], 3),
            "followed_to": row.followed_to.isoformat(),
            "caught_up": row.caught_up,
            "by_backend": row.by_backend,
            "by_fleet": row.by_fleet,
            "applied": row.applied,
            "refused": row.refused,
            "started_at": row.started_at.isoformat(),
            "updated_at": row.updated_at.isoformat(),
        }
        for row in rows
    ]
    if as_json:
        typer.echo(json.dumps({"following": said, "looked_at_again": again}, indent=2))
    else:
        _print(Console(), said, again)
    whole = next((row for row in rows if row.name == EVERYTHING), None)
    if whole is None or (now - whole.updated_at).total_seconds() > SILENT_SECONDS:
        raise typer.Exit(1)


def _print(console: Console, said: list[dict[str, Any]], again: dict[str, int]) -> None:
    if not said:
        console.print("nothing was followed yet: fleet run follower", style="red")
        return
    numbers = ("behind", "by backend", "by fleet", "applied", "refused")
    table = Table(
        "what", "mode", *(Column(name, justify="right") for name in numbers), Column("why", overflow="fold"), box=None
    )
    for row in said:
        table.add_row(
            shown(row["name"]), shown(row["mode"]), f"{row['seconds_behind']:.1f} s", f"{row['by_backend']:,}",
            f"{row['by_fleet']:,}", f"{row['applied']:,}", f"{row['refused']:,}", shown(row["reason"] or ""),
        )  # fmt: skip
    console.print(table)
    if again:
        console.print("looked at again: " + ", ".join(f"{count:,} {reason}" for reason, count in again.items()))


def register(mirror: typer.Typer) -> None:
    """Add the command to ``fleet mirror``."""
    mirror.command()(following)
