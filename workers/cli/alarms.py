"""``fleet alarms``: what came to need people, and whether somebody knows."""

import json
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.terminal import shown

alarms = typer.Typer(
    help="What came to need people: alarms that no receiver and no person has acknowledged, the newest first.",
    invoke_without_command=True,
)


@alarms.callback()
def open_alarms(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False
) -> None:
    """What came to need people: alarms that neither the webhook nor a person has acknowledged, the newest first.

    An alarm says that something happened; `fleet stuck` says what still waits, and what unblocks it. With
    ALARM_WEBHOOK_URL set, the receiver's 2xx acknowledges an alarm. Exit code 1 if any is open.
    """
    if context.invoked_subcommand is not None:
        return
    from custody.alarms.rows import count_open, newest_open
    from custody.alarms.webhook import as_document

    engine = open_engine(settings().secret("database_url"), application="fleet-alarms", pool_size=1)
    try:
        with transaction(engine) as connection:
            found, count = newest_open(connection), count_open(connection)
    finally:
        engine.dispose()
    if as_json:
        listed = [as_document(each) | {"attempts": each.attempts, "last_error": each.last_error} for each in found]
        typer.echo(json.dumps({"open": count, "alarms": listed}, indent=2))
    elif not found:
        Console().print("no alarm is open", style="green")
    else:
        console = Console()
        columns = ("what happened", "webhook", "id")
        table = Table("raised", "kind", *(Column(name, overflow="fold") for name in columns), box=None)
        for each in found:
            tried = f"{each.attempts} tries: {each.last_error}" if each.last_error else ""
            table.add_row(
                f"{each.raised_at:%Y-%m-%d %H:%M}", each.kind, shown(each.sentence), shown(tried), str(each.id)
            )
        console.print(table)
        if count > len(found):
            console.print(f"and {count - len(found)} older ones")
    if count:
        raise typer.Exit(1)


@alarms.command("acknowledge")
def acknowledge_(
    alarm: Annotated[UUID, typer.Argument(metavar="ID", help="the alarm's id, as fleet alarms shows it")],
    by: Annotated[str, typer.Option(help="who knows of it (a label, never an authority)")],
) -> None:
    """Say that somebody knows: the alarm leaves the list and is posted no more. What it is about stays as it is."""
    from custody.alarms.rows import AlarmRefused, acknowledge

    engine = open_engine(settings().secret("database_url"), application="fleet-alarms", pool_size=1)
    try:
        with transaction(engine) as connection:
            is_new = acknowledge(connection, alarm, by=by)
    except AlarmRefused as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()
    typer.echo("acknowledged" if is_new else "it was acknowledged already")


def register(app: typer.Typer) -> None:
    app.add_typer(alarms, name="alarms")
