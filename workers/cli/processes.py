"""``fleet run`` and ``fleet watch``: one process of the fleet in the foreground, with this shell's settings."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from workers.processes import PROCESSES, process


def run(
    name: Annotated[
        str | None, typer.Argument(help="which process; without one, the list of them", show_default=False)
    ] = None,
) -> None:
    """Run one process in the foreground. Its DATABASE_URL must be its own role's (R9)."""
    if name is None:
        for each in PROCESSES:
            typer.echo(f"{each.name:22} {each.role or 'no database':20} {each.does}")
        return
    try:
        chosen = process(name)
    except LookupError as error:
        raise typer.BadParameter(str(error)) from None
    _become(chosen.arguments)


def watch() -> None:
    """Run the watcher in the foreground: what the chains hold."""
    _become(process("watcher").arguments)


def _become(arguments: tuple[str, ...]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - the table's own arguments, no shell


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(watch)
