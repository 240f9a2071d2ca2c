"""``fleet sessions``: who is logged in at the signer API, and the end of it, for operators (R6)."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, text

from custody.sessions import allow, end_sessions_of
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction

SHOWN: int = 100  # the newest; a team opens some ten a day

sessions = typer.Typer(no_args_is_help=True, help="Sessions of signers and approvers at the signer API.")
_Result = TypeVar("_Result")


@sessions.command("list")
def list_sessions() -> None:
    """Open sessions, the newest first, and barred devices."""

    def work(connection: Connection) -> tuple[Table, list[str]]:
        table = Table("who", "role", "device", "since (UTC)", "until (UTC)")
        for row in connection.execute(
            text(
                "SELECT person, role, address, opened_at, expires_at FROM fleet.signer_sessions "
                "WHERE ended_at IS NULL AND expires_at > clock_timestamp() ORDER BY opened_at DESC LIMIT :shown"
            ),
            {"shown": SHOWN},
        ):
            table.add_row(
                row.person or "", row.role, row.address, f"{row.opened_at:%m-%d %H:%M}", f"{row.expires_at:%m-%d %H:%M}"
            )
        barred = connection.execute(
            text("SELECT address, reason, barred_at FROM fleet.barred_signers ORDER BY barred_at DESC LIMIT :shown"),
            {"shown": SHOWN},
        )
        return table, [f"barred {row.address} since {row.barred_at:%Y-%m-%d %H:%M}: {row.reason}" for row in barred]

    table, barred = _as_operator(work)
    Console().print(table)
    for line in barred:
        typer.echo(line)


@sessions.command("end")
def end(
    who: Annotated[str, typer.Argument(help="a person, or a device's address")],
    by: Annotated[str, typer.Option(help="who asks; a label, never an authority")],
    reason: Annotated[str, typer.Option(help="why")],
) -> None:
    """End every open session of a person or a device at once. A lost device: fleet signer device lost PERSON."""
    ended = _as_operator(lambda connection: end_sessions_of(connection, who, by=by, reason=reason))
    typer.echo(f"{ended} sessions of {who} ended")
    if not ended:
        raise typer.Exit(1)


@sessions.command("allow")
def allow_again(address: Annotated[str, typer.Argument(help="the device's address")]) -> None:
    """Let a barred device log in again: it was found, or barred in error. What its approvals count, the genesis says."""
    if not _as_operator(lambda connection: allow(connection, address)):
        typer.secho(f"{address} is not barred: fleet sessions list", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo(f"{address} may log in again")


def _as_operator(work: Callable[[Connection], _Result]) -> _Result:
    engine = open_engine(settings().secret("database_url"), application="fleet-sessions", pool_size=1)
    try:
        with transaction(engine) as connection:
            return work(connection)
    finally:
        engine.dispose()


def register(app: typer.Typer) -> None:
    app.add_typer(sessions, name="sessions")
