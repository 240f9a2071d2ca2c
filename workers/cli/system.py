"""``fleet up``, ``down``, ``status``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.settings.environment import settings

if TYPE_CHECKING:
    from workers.demo.fleet import DevelopmentFleet
    from workers.demo.provision import TreasuryKind
    from workers.demo.sweep_strategies import DemoStrategy
    from workers.embedded.services import ServiceStatus


def state_dir() -> Path:
    return settings().fleet_state_dir


def bring_up(
    console: Console, treasury: "TreasuryKind | None" = None, strategy: "DemoStrategy | None" = None
) -> "DevelopmentFleet":
    """Everything up, with a line for each thing that comes up. ``treasury``: the kind that a new folder is founded with;
    ``strategy``: how it sweeps from now on.
    """
    from workers.demo.fleet import start

    with console.status("starting") as status:
        fleet = start(state_dir(), status.update, treasury, strategy)
    console.print(f"the fleet is up; state and logs in {state_dir()}", style="green")
    return fleet


def bring_down(console: Console) -> None:
    """Everything down; data stays."""
    from workers.embedded import services

    with console.status("stopping"):
        services.down(state_dir())


def up(
    services_only: Annotated[
        bool, typer.Option("--services-only", help="the four servers, and no process of the fleet")
    ] = False,
) -> None:
    """Start the embedded servers and every process of the fleet, and restart what dies.

    Any server is replaced by one that runs already: DATABASE_ADMIN_URL, BROKER_URL, MONGO_URL, CHAIN_RPC_URL.
    """
    from workers.fleet_status import fleet_status

    console = Console()
    if services_only:
        from workers.demo.fleet import start_services

        with console.status("starting") as status:
            start_services(state_dir(), status.update)
    else:
        fleet = bring_up(console)
        console.print(f"ingress     {fleet.ingress_url}/webhooks/request-network")
        console.print(f"signer API  {fleet.signer_api_url}")
        console.print(f"Flower      {fleet.flower_url}  (user and password: {fleet.provisioned.secrets.flower})")
    _print_status(console, fleet_status(state_dir()))


def down() -> None:
    """Stop every process and server of this state folder; data stays."""
    bring_down(Console())


def status(
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
) -> None:
    """Where every server and process is: address, pid, health. Exit code 1 if one is not healthy."""
    from workers.fleet_status import fleet_status

    found = fleet_status(state_dir())
    if as_json:
        rows = [{"name": row.name, "url": row.url, "pid": row.pid, "health": row.health} for row in found]
        typer.echo(json.dumps({"services": rows}, indent=2))
    else:
        _print_status(Console(), found)
    if not all(row.ok for row in found):
        raise typer.Exit(1)


def _print_status(console: Console, found: "list[ServiceStatus]") -> None:
    table = Table("name", Column("where", overflow="fold"), "pid", "health")
    for row in found:
        table.add_row(
            row.name,
            row.url,
            "" if row.pid is None else str(row.pid),
            row.health,
            style=None if row.ok else "red",
        )
    console.print(table)


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
