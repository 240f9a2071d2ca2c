"""``fleet stuck``, ``fleet look`` and ``fleet delivery``."""

from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.settings.environment import settings
from custody.store.attention import needs_attention
from custody.store.engine import open_engine, transaction
from workers.cli.terminal import shown


def stuck() -> None:
    """Everything that goes no further without a person, why, and what unblocks it. Exit code 1 if there is anything."""
    engine = open_engine(settings().secret("database_url"), application="fleet-stuck", pool_size=1)
    try:
        with engine.connect() as connection:
            found = needs_attention(connection)
    finally:
        engine.dispose()
    console = Console()
    if not found:
        console.print("nothing waits for a person", style="green")
        return
    table = Table("since", *(Column(name, overflow="fold") for name in ("what", "why", "what unblocks it")), box=None)
    for item in found:
        table.add_row(f"{item.since:%Y-%m-%d %H:%M}", shown(item.what), shown(item.reason), shown(item.unblocks))
    console.print(table)
    raise typer.Exit(1)


def look(
    chain_id: Annotated[int, typer.Argument(help="the chain's id")],
    transaction_hash: Annotated[str, typer.Argument(help="0x and 64 hex digits")],
) -> None:
    """Ask the watcher to read a transaction, also one that it has read before or given up."""
    from custody.chain.looks import HASH, request_look

    if HASH.fullmatch(transaction_hash.lower()) is None:
        typer.secho("transaction hash: expected 0x and 64 hex digits", fg="red", err=True)
        raise typer.Exit(1)
    engine = open_engine(settings().secret("database_url"), application="fleet-look", pool_size=1)
    try:
        with transaction(engine) as connection:
            request_look(connection, chain_id, transaction_hash, requested_by="operator")
    finally:
        engine.dispose()
    typer.echo("asked; the watcher reads it at its next pass")


def delivery(
    delivery_id: Annotated[UUID, typer.Argument(help="the delivery's id, as fleet stuck shows it")],
    again: Annotated[bool, typer.Option("--again", help="have it read again")] = False,
    close: Annotated[str, typer.Option(help="end it, and say why")] = "",
) -> None:
    """Have a provider's delivery read again, or end it; with the others that named the same transaction."""
    from custody.providers.settling import DeliveryUnknown, settle

    if again == bool(close):
        typer.secho("expected one of --again and --close REASON", fg="red", err=True)
        raise typer.Exit(1)
    engine = open_engine(settings().secret("database_url"), application="fleet-delivery", pool_size=1)
    try:
        with transaction(engine) as connection:
            done = settle(connection, delivery_id, "again" if again else "close", close)
    except (DeliveryUnknown, ValueError) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
    typer.echo(f"{done} {'are read again' if again else 'ended'}")


def register(app: typer.Typer) -> None:
    app.command()(delivery)
    app.command()(stuck)
    app.command()(look)
