"""``fleet keys``: the process that holds the keys of deposits and gas, and who it says it is."""

import os
import sys

import typer

from custody.settings.environment import load_settings
from workers.processes import process

keys = typer.Typer(no_args_is_help=True, help="The keys agent: signs sweeps to the treasury and nothing else.")


@keys.command()
def agent() -> None:
    """Run the keys agent in the foreground, with this shell's settings."""
    arguments = process("keys-agent").arguments
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - the table's own arguments, no shell


@keys.command()
def status() -> None:
    """Ask the agent who it is: its deposit account, its gas payer, and what binds it. Exit code 2 if it is away."""
    from custody.destinations.keys.client import KeysAgent, KeysAgentAway

    settings = load_settings().require("keys_agent_socket")
    assert settings.keys_agent_socket is not None
    try:
        identity = KeysAgent(settings.keys_agent_socket).identity()
    except KeysAgentAway as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    for fingerprint in identity.accounts:
        typer.echo(f"deposit account {fingerprint}")
    for payer in identity.gas_payers:
        typer.echo(f"gas payer       {payer}")
    typer.echo(f"bound by        {identity.binding}")


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")
