"""``fleet payers``: the gas payers of each chain, and letting one go on whose key was used elsewhere."""

from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Column, Table

from custody.chain.assets import to_amount
from custody.chain.lane_leases import SUBJECT_KIND, thaw
from custody.chain.payer_table import payer_rows
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.terminal import shown

log = structlog.get_logger(__name__)

payers = typer.Typer(
    no_args_is_help=True, help="The gas payers: their coins, their nonces, and what each has in flight."
)

_COIN_DECIMALS = 18


@payers.command("list")
def list_payers() -> None:
    """Show each payer as the sweeps worker last saw it. Exit code 1 if one is frozen or has less than its floor.

    A payer whose row is not there has never sent: register it, fund it, and the first sweep makes its row.
    """
    engine = open_engine(settings().secret("database_url"), application="fleet-payers", pool_size=1)
    try:
        with engine.connect() as connection:
            rows = payer_rows(connection)
    finally:
        engine.dispose()
    console = Console()
    if not rows:
        console.print("no gas payer has sent anything yet")
        return
    table = Table(
        "chain",
        Column("payer", overflow="fold"),
        *(
            Column(name, justify="right")
            for name in ("coins", "floor", "next nonce", "on chain", "in flight", "oldest")
        ),
        Column("state", overflow="fold"),
        box=None,
    )
    for row in rows:
        why = f"frozen: {row.frozen_reason}" if row.frozen_reason else row.state
        table.add_row(
            str(row.chain_id),
            row.address,
            _coins(row.balance_wei),
            _coins(row.floor_wei),
            str(row.next_nonce),
            "" if row.chain_nonce is None else str(row.chain_nonce),
            str(row.in_flight),
            "" if row.oldest_seconds is None else f"{row.oldest_seconds} s",
            shown(why),
            style={"frozen": "red", "empty": "yellow"}.get(row.state),
        )
    console.print(table)
    if any(row.state in {"frozen", "empty"} for row in rows):
        raise typer.Exit(1)


@payers.command("thaw")
def thaw_payer(
    address: Annotated[str, typer.Argument(help="the payer's address, as fleet payers list shows it")],
    chain_id: Annotated[int, typer.Option("--chain", help="the chain's id")],
    by: Annotated[str, typer.Option(help="who (a label, never an authority)")],
    reason: Annotated[str, typer.Option(help="who used the key, and why it is safe to go on")],
) -> None:
    """Let a frozen payer send again: what was spent on its nonces by then is known to be somebody else's.

    Only when you know who that was. A key that a thief may have is taken from the keys agent instead: other payers go on.
    What the foreign transactions moved is not booked by this; compare fleet books and adjust.
    """
    engine = open_engine(settings().secret("database_url"), application="fleet-payers", pool_size=1)
    try:
        with transaction(engine) as connection:
            below = thaw(connection, chain_id, address, by=by, reason=reason)
    except (LookupError, ValueError) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()
    log.warning("lane_thawed", chain_id=chain_id, sender=address, below=below, by=by, reason=reason, kind=SUBJECT_KIND)
    typer.echo(f"{address} sends again; its nonces below {below} may have been spent elsewhere")


def _coins(wei: int | None) -> str:
    return "" if wei is None else f"{to_amount(wei, _COIN_DECIMALS):.6f}"


def register(app: typer.Typer) -> None:
    app.add_typer(payers, name="payers")
