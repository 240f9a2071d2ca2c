"""``fleet ledger adjust``: corrections by hand, proposed by one person and executed by another (custody-rules R10)."""

from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from custody.chain.addresses import parse_address
from custody.ledger.adjustments import (
    Kind,
    OpeningClaim,
    OpeningPlace,
    execute,
    open_actions,
    propose,
    propose_correction,
    propose_cover,
    propose_opening,
    withdraw,
)
from custody.ledger.entries import LedgerRefusal
from custody.settings.environment import settings as read_settings
from custody.store.engine import open_engine, ring_relay, transaction
from workers.cli.terminal import shown

adjust = typer.Typer(
    help="Adjustments by hand: proposed by one, signed by two persons on their devices (fleet signer approve), then "
    "executed. On a development chain another name than the proposer's is enough.",
    no_args_is_help=True,
)

By = Annotated[str, typer.Option(help="who (a label, never an authority)")]
Reason = Annotated[str, typer.Option(help="why, at most 500 characters")]


@contextmanager
def _database() -> Generator[Connection]:
    engine = open_engine(read_settings().secret("database_url"), application="fleet-adjust", pool_size=1)
    try:
        with transaction(engine) as connection:
            yield connection
        ring_relay(engine)
    except (LedgerRefusal, LookupError, ValueError) as error:
        typer.secho(str(error).splitlines()[0], fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"expected a decimal number such as 12.5, got {text}") from None


@adjust.command("accept")
def accept(payment: UUID, amount: Annotated[str, typer.Argument(help="whole tokens")], by: By, reason: Reason) -> None:
    """Propose that an amount in suspense is held for its payment after all."""
    _propose("accepted", payment, amount, by, reason)


@adjust.command("bear-fee")
def bear_fee(
    payment: UUID, amount: Annotated[str, typer.Argument(help="whole tokens")], by: By, reason: Reason
) -> None:
    """Propose that the payment bears what the token kept for itself on the way."""
    _propose("fee_borne", payment, amount, by, reason)


@adjust.command("open")
def open_(
    payment: UUID,
    amount: Annotated[str, typer.Argument(help="whole tokens")],
    address: Annotated[str, typer.Option(help="where the coins lie: the deposit address or the treasury")],
    by: By,
    reason: Reason,
    place: Annotated[OpeningPlace, typer.Option(help="which of the two the address is")] = "treasury",
    claim: Annotated[OpeningClaim, typer.Option(help="whose the coins are")] = "held",
) -> None:
    """Propose what a payment had when the fleet joined its database; only for a book that nothing was posted to."""
    value = _amount(amount)
    with _database() as connection:
        action = propose_opening(
            connection,
            payment,
            value,
            place=place,
            address=parse_address(address, require_checksum=True),
            claim=claim,
            reason=reason,
            by=by,
        )
    typer.echo(
        f"proposed as {action}; two persons sign it: fleet signer approve; it is shown by: fleet ledger adjust list"
    )


def _propose(kind: Kind, payment: UUID, amount: str, by: str, reason: str) -> None:
    value = _amount(amount)
    with _database() as connection:
        action = propose(connection, payment, kind, value, reason=reason, by=by)
    typer.echo(
        f"proposed as {action}; two persons sign it: fleet signer approve; it is shown by: fleet ledger adjust list"
    )


@adjust.command("cover")
def cover(
    book: Annotated[UUID, typer.Argument(help="the payment, or the house account, that has lost coins")],
    amount: Annotated[str, typer.Argument(help="whole tokens")],
    by: By,
    reason: Reason,
    token: Annotated[str | None, typer.Option(help="the token's address, if it has lost more than one")] = None,
) -> None:
    """Propose that the house's own coins in the treasury cover what the chain or a thief took."""
    value = _amount(amount)
    with _database() as connection:
        action = propose_cover(connection, book, value, reason=reason, by=by, token=token)
    typer.echo(
        f"proposed as {action}; two persons sign it: fleet signer approve; it is shown by: fleet ledger adjust list"
    )


@adjust.command("correct")
def correct(entry: UUID, by: By, reason: Reason) -> None:
    """Propose the exact reverse of an adjustment made by hand."""
    with _database() as connection:
        action = propose_correction(connection, entry, reason=reason, by=by)
    typer.echo(
        f"proposed as {action}; two persons sign it: fleet signer approve; it is shown by: fleet ledger adjust list"
    )


@adjust.command("list")
def list_() -> None:
    """What waits for signatures or for its execution, and who has signed."""
    with _database() as connection:
        actions = open_actions(connection)
    table = Table("action", "what", "reason", "proposed by", "signed by", "hash")
    for one in actions:
        what = ", ".join(f"{name} {value}" for name, value in one.parameters.items())
        table.add_row(
            str(one.id), shown(what), shown(one.reason), shown(one.proposed_by), ", ".join(one.signed_by), one.hash
        )
    Console().print(table if actions else "nothing waits")


@adjust.command("execute")
def execute_(
    action: UUID, by: By, agreed: Annotated[str, typer.Option("--hash", help="the hash that the list shows")]
) -> None:
    """Post what was proposed, once two persons have signed it."""
    with _database() as connection:
        entry = execute(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"posted as entry {entry}")


@adjust.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal without executing it."""
    with _database() as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def add_to(ledger: typer.Typer) -> None:
    """Hang ``adjust`` under ``fleet ledger``."""
    ledger.add_typer(adjust, name="adjust")
