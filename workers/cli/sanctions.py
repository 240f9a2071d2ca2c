"""``fleet sanctions``: lists of addresses that may not pay; loading adds at once, two persons take one off (R10, R13)."""

import json
import sys
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.ledger.adjustments import open_actions, withdraw
from custody.payments.sanctions_lists import (
    delist,
    load_list,
    loaded_lists,
    naming_of,
    propose_delisting,
    read_list,
)
from workers.cli.actions import Agreed, By, Reason, as_operator, print_actions
from workers.cli.terminal import shown

sanctions = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Addresses that may not pay. What comes from one waits in suspense and is never released; more than dust stops "
    "the deposit address.",
)

LISTED: Final = 20
_KIND: Final = "delist"


@sanctions.command()
def load(
    file: Annotated[Path, typer.Argument(help="TOML: version, source, addresses")],
    by: By,
    expected: Annotated[
        str | None,
        typer.Option("--hash", help="refuse the file unless its addresses hash to this; from who made the list"),
    ] = None,
) -> None:
    """Load a newer list. It binds at once, for every payment that is not held yet; the same list again changes nothing.

    The hash is SHA-256 over the addresses in order, lower case, a line each. It is kept with the version, and with each
    judgement that was made by it. Addresses that the list no longer names stay named: [bold]fleet sanctions delist[/bold].

        version = 20261127
        source = "OFAC SDN, 27 November 2026"
        addresses = ["0x8589427373d6d84e98730d7795d8f6f8731fda16"]
    """
    with as_operator("fleet-sanctions") as connection:
        found = read_list(file)
        if expected is not None and expected.lower() != found.hash():
            raise ValueError(f"{file}: the hash of its addresses is {found.hash()}, expected {expected}: not loaded")
        added = load_list(connection, found, by=by)
    if added is None:
        typer.echo(f"list {found.version} is loaded already; nothing changed")
    else:
        typer.echo(
            f"list {found.version} binds from now on: {len(set(found.addresses))} addresses, {added} of them new"
        )
    typer.echo(f"hash {found.hash()}")


@sanctions.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False) -> None:
    """Which lists were loaded, and who waits to take an address off. Exit code 1 if none was: then nobody is judged."""
    with as_operator("fleet-sanctions") as connection:
        found = loaded_lists(connection, LISTED)
        waiting = open_actions(connection, _KIND)
    if as_json:
        said = [
            {
                "version": each.version,
                "hash": each.hash,
                "source": each.source,
                "addresses": each.addresses,
                "loaded_by": each.loaded_by,
                "loaded_at": each.loaded_at.isoformat(),
            }
            for each in found
        ]
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    else:
        console = Console()
        table = Table(
            "version",
            "addresses",
            Column("source", overflow="fold"),
            "loaded",
            "by",
            Column("hash", overflow="fold"),
            box=None,
        )
        for each in found:
            table.add_row(
                str(each.version),
                str(each.addresses),
                shown(each.source),
                f"{each.loaded_at:%Y-%m-%d %H:%M}",
                shown(each.loaded_by),
                each.hash,
            )
        console.print(table if found else "no list was loaded: no sender is judged by one. fleet sanctions load FILE")
        print_actions(
            console,
            waiting,
            "proposed to be taken off; signed by two it is: fleet sanctions agree ACTION --hash HASH --by NAME",
            lambda action: action.parameters["address"],
        )
    if not found:
        raise typer.Exit(1)


@sanctions.command()
def check(address: Annotated[str, typer.Argument(help="0x and 40 hex digits")]) -> None:
    """Whether an address is named. Exit code 1 if it is, on any chain."""
    with as_operator("fleet-sanctions") as connection:
        found = naming_of(connection, address)
    if found is None:
        typer.echo(f"no loaded list names {address}")
        return
    off = f", taken off on chain {', '.join(map(str, found.delisted_on))}" if found.delisted_on else ""
    typer.echo(f"{found.address} is named since list {found.since_version}{off}")
    raise typer.Exit(1)


@sanctions.command("delist")
def delist_(
    address: Annotated[str, typer.Argument(help="0x and 40 hex digits")],
    chain: Annotated[int, typer.Option(help="the chain's id")],
    by: By,
    reason: Reason,
) -> None:
    """Propose that an address may pay on one chain again, and that what it paid there is locked no more.

    Two persons sign it (fleet signer approve), then another than who proposed takes it off: fleet sanctions agree.
    """
    with as_operator("fleet-sanctions") as connection:
        action = propose_delisting(connection, chain, address, reason=reason, by=by)
    typer.echo(
        f"proposed as {action}; two persons sign it (fleet signer approve), then another takes it off: fleet sanctions "
        f"agree {action} --hash HASH --by OTHER (fleet sanctions status shows the hash)"
    )


@sanctions.command()
def agree(action: UUID, by: By, agreed: Agreed) -> None:
    """Take off the address that another person proposed to take off and two signed."""
    with as_operator("fleet-sanctions") as connection:
        address = delist(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"{address} may pay again; what it paid before waits in suspense for: fleet ledger adjust, fleet refund")


@sanctions.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal without taking the address off."""
    with as_operator("fleet-sanctions") as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def register(app: typer.Typer) -> None:
    app.add_typer(sanctions, name="sanctions")
