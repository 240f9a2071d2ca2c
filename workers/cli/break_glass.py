"""``fleet break-glass``: for less than an hour, one approver fewer (R15)."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection, text

from custody.ledger.entries import LedgerRefusal
from custody.policy.break_glass_proposals import break_glass_states, propose_break_glass, veto_break_glass
from custody.policy.engine import plain
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.terminal import shown

break_glass = typer.Typer(
    help="When an approver cannot be reached: for less than an hour one person fewer approves releases of one token, never "
    "fewer than two, for at most a tenth of the treasury's coins, once in 24 hours. Two persons sign it; any one guard "
    "vetoes it. docs/custody/break-glass.md",
    no_args_is_help=True,
)

By = Annotated[str, typer.Option(help="who (a label, never an authority)")]


@contextmanager
def _database() -> Generator[Connection]:
    engine = open_engine(settings().secret("database_url"), application="fleet-break-glass", pool_size=1)
    try:
        with transaction(engine) as connection:
            yield connection
    except (LedgerRefusal, LookupError, ValueError) as error:
        typer.secho(str(error).splitlines()[0], fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


@break_glass.command("propose")
def propose(
    chain_id: Annotated[int, typer.Argument(metavar="CHAIN", help="the chain's id")],
    token: Annotated[str, typer.Argument(help="the token's symbol or address, or native")],
    by: By,
    reason: Annotated[str, typer.Option(help="why, at most 500 characters; it is signed")],
    minutes: Annotated[int, typer.Option(help="until when, counted from now: 15 to 60")] = 60,
) -> None:
    """Propose one. Two persons sign it (fleet signer approve); 10 minutes later it opens, once its alarm was heard."""
    with _database() as connection:
        action = propose_break_glass(
            connection, chain_id, _address(connection, chain_id, token), minutes=minutes, reason=reason, by=by
        )
    typer.echo(
        f"proposed as {action}; two persons sign it: fleet signer approve. It opens 10 minutes after the second signature and "
        f"once the alarms' receiver has acknowledged it. Any one guard ends it: fleet break-glass veto {action} --by NAME"
    )


@break_glass.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False) -> None:
    """Where each stands and what it waits for, the newest first. Exit code 1 if one is proposed or open."""
    with _database() as connection:
        states = break_glass_states(connection)
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {
                        "id": str(one.id), "chain_id": one.chain_id, "token": one.token, "maximum": plain(one.maximum),
                        "reason": one.reason, "proposed_by": one.proposed_by, "proposed_at": one.proposed_at.isoformat(),
                        "expires_at": one.expires_at.isoformat(), "signed_by": list(one.signed_by), "is_over": one.is_over,
                        "stands": one.stands,
                    }
                    for one in states
                ],
                indent=2,
            )
        )  # fmt: skip
    elif not states:
        typer.echo("there was no break-glass")
    else:
        columns = ("token", "stands", "why", "id")
        table = Table("proposed", "chain", "at most", *(Column(name, overflow="fold") for name in columns), box=None)
        for one in states:
            table.add_row(
                f"{one.proposed_at:%Y-%m-%d %H:%M}",
                str(one.chain_id),
                plain(one.maximum),
                shown(one.token),
                shown(one.stands),
                shown(f"{one.reason} ({one.proposed_by})"),
                str(one.id),
                style=None if one.is_over else "red",
            )
        Console().print(table)
    if any(not one.is_over for one in states):
        raise typer.Exit(1)


@break_glass.command("veto")
def veto(
    action: Annotated[UUID, typer.Argument(metavar="ID", help="as fleet break-glass status shows it")], by: By
) -> None:
    """End it at once: what is not open never opens, what is open closes. Any one guard may, and nobody can undo it."""
    with _database() as connection:
        veto_break_glass(connection, action, by=by)
    typer.echo("vetoed; what it let a signer have and was not broadcast waits for more approvals or for its cancel")


def _address(connection: Connection, chain_id: int, token: str) -> str:
    found = connection.execute(
        text("SELECT token FROM fleet.tokens WHERE chain_id = :chain AND (lower(token) = :it OR lower(symbol) = :it)"),
        {"chain": chain_id, "it": token.lower()},
    ).scalars()
    tokens = list(found)
    if len(tokens) != 1:
        raise LookupError(f"chain {chain_id} has {'no' if not tokens else 'more than one'} token {token}")
    return tokens[0]


def register(app: typer.Typer) -> None:
    app.add_typer(break_glass, name="break-glass")
