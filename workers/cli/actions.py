"""What commands of two persons share: the operator's connection, and the table of what waits for signatures (R10)."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection

from custody.ledger.adjustments import Action
from custody.ledger.entries import LedgerRefusal
from custody.settings.environment import settings
from custody.store.engine import open_engine, ring_relay, transaction
from workers.cli.terminal import shown

By = Annotated[str, typer.Option(help="who (a label, never an authority)")]
Reason = Annotated[str, typer.Option(help="why, at most 500 characters")]
Agreed = Annotated[str, typer.Option("--hash", help="the hash that the list shows")]


@contextmanager
def as_operator(application: str) -> Generator[Connection]:
    """One transaction of an operator's command; a refusal is one sentence and exit code 2, and nothing was changed."""
    engine = open_engine(settings().secret("database_url"), application=application, pool_size=1)
    try:
        with transaction(engine) as connection:
            yield connection
        ring_relay(engine)
    except (LedgerRefusal, LookupError, ValueError) as error:
        typer.secho(str(error).splitlines()[0], fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


def print_actions(console: Console, waiting: Sequence[Action], sentence: str, subject: Callable[[Action], str]) -> None:
    """What waits for a second person, with the hash that this person must name; nothing when nothing waits."""
    if not waiting:
        return
    table = Table(
        "action",
        "chain",
        "of",
        Column("why", overflow="fold"),
        "proposed by",
        "signed by",
        Column("hash", overflow="fold"),
        box=None,
    )
    for action in waiting:
        table.add_row(
            str(action.id),
            str(action.chain_id),
            shown(subject(action)),
            shown(action.reason),
            shown(action.proposed_by),
            ", ".join(action.signed_by),
            action.hash,
        )
    console.print(f"\n{sentence}")
    console.print(table)
