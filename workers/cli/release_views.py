"""``fleet releases open`` and ``show``: what is paid together, what it adds up to, and what it waits for (R23)."""

from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import text

from custody.settings.environment import settings
from custody.store.engine import open_engine
from workers.cli.terminal import shown

OPEN_LIMIT: Final = 200  # lines of a list that a person still reads

_OPEN: Final = text(
    """
    SELECT i.id, i.purpose, i.state, i.amount, t.symbol, i.recipient, i.held_reason, i.created_at, (
        SELECT count(*) FROM fleet.release_instructions m WHERE m.id = i.id OR m.group_id = i.id)
        - (i.payment_id IS NULL)::integer AS payments
    FROM fleet.release_instructions i JOIN fleet.tokens t ON t.chain_id = i.chain_id AND t.token = i.token
    WHERE i.state NOT IN ('final', 'cancelled', 'expired', 'failed') AND i.group_id IS NULL
    ORDER BY i.created_at, i.id LIMIT :limit
    """
)
_ONE: Final = text(
    """
    SELECT i.*, t.symbol FROM fleet.release_instructions i
    JOIN fleet.tokens t ON t.chain_id = i.chain_id AND t.token = i.token WHERE i.id = :id
    """
)
_PARTS: Final = text(
    """
    SELECT m.payment_id, m.id, m.amount, m.platform_fee, m.provider_fee, m.state, m.held_reason
    FROM fleet.release_instructions m WHERE m.group_id = :id OR (m.id = :id AND m.payment_id IS NOT NULL)
    ORDER BY m.payment_id
    """
)


def list_open() -> None:
    """What is to be paid out: one line a transfer, with how many payments it pays for and what it waits for."""
    table = Table(
        "instruction", "what", "state", Column("payments", justify="right"), "amount", "recipient", "waits for"
    )
    for row in _read(_OPEN, limit=OPEN_LIMIT):
        table.add_row(
            str(row.id),
            row.purpose,
            row.state,
            str(row.payments),
            f"{row.amount.normalize():f} {row.symbol}",
            row.recipient,
            shown(row.held_reason or ""),
        )
    Console().print(table)


def show(
    instruction: Annotated[UUID, typer.Argument(help="instruction or group id, as fleet releases open shows it")],
) -> None:
    """One transfer with each payment that it pays for, its share, the fees kept of it, and their sums."""
    found = _read(_ONE, id=instruction)
    if not found:
        typer.secho(f"There is no release instruction {instruction}; see: fleet releases open", fg="red", err=True)
        raise typer.Exit(1)
    [one] = found
    console = Console()
    console.print(
        f"{one.purpose} {one.id} is {one.state}: {one.amount.normalize():f} {one.symbol} on chain {one.chain_id} to "
        f"{one.recipient}",
        style="bold",
        highlight=False,
    )
    if one.held_reason:
        console.print(shown(f"waits for or ended by: {one.held_reason}"), highlight=False)
    if one.house_id is not None:
        console.print(f"it pays for no payment: the house's own coins at {one.treasury}", highlight=False)
        return
    if one.group_id is not None:
        console.print(f"it is paid with others: fleet releases show {one.group_id}", highlight=False)
    parts = _read(_PARTS, id=instruction)
    table = Table(
        "payment", "instruction", Column("amount", justify="right"), Column("fees kept", justify="right"), "waits for",
        show_footer=len(parts) > 1,
    )  # fmt: skip
    table.columns[0].footer = f"{len(parts)} payments"
    table.columns[2].footer = f"{sum((each.amount for each in parts), Decimal(0)).normalize():f}"
    for each in parts:
        fees = each.platform_fee + each.provider_fee
        table.add_row(
            str(each.payment_id),
            str(each.id),
            f"{each.amount.normalize():f}",
            f"{fees.normalize():f}" if fees else "",
            shown(each.held_reason or ""),
        )
    console.print(table)


def _read(statement: Any, **parameters: Any) -> list[Any]:
    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with engine.connect() as connection:
            return list(connection.execute(statement, parameters))
    finally:
        engine.dispose()


def register(releases: typer.Typer) -> None:
    """Add the views to ``fleet releases``."""
    releases.command("open")(list_open)
    releases.command()(show)
