"""``fleet chain``: where each chain stands, stopping one at once, and going on with two persons (L14, R10)."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection

from custody.chain.pauses import ChainState, chain_states, go_on, pause, propose_go_on
from custody.ledger.adjustments import Action, open_actions, withdraw
from custody.ledger.entries import LedgerRefusal
from custody.settings.environment import settings as read_settings
from custody.store.engine import open_engine, ring_relay, transaction
from workers.cli.terminal import shown

chain = typer.Typer(help="The chains: where each stands, and its pause.", no_args_is_help=True)

ChainId = Annotated[int, typer.Argument(metavar="CHAIN", help="the chain's id")]
By = Annotated[str, typer.Option(help="who (a label, never an authority)")]
Reason = Annotated[str, typer.Option(help="why, at most 500 characters")]


@contextmanager
def _database() -> Generator[Connection]:
    engine = open_engine(read_settings().secret("database_url"), application="fleet-chain", pool_size=1)
    try:
        with transaction(engine) as connection:
            yield connection
        ring_relay(engine)
    except (LedgerRefusal, LookupError, ValueError) as error:
        typer.secho(str(error).splitlines()[0], fg="red", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


@chain.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False) -> None:
    """Each chain's head, what of it is agreed on, its pause, its nodes, and who waits to go on. Exit code 1 if one is
    paused.
    """
    with _database() as connection:
        states = chain_states(connection)
        waiting = open_actions(connection, "go_on")
    if as_json:
        typer.echo(json.dumps([_as_dict(one) for one in states], indent=2))
    else:
        _print(states, waiting)
    if any(one.paused_reason is not None for one in states):
        raise typer.Exit(1)


@chain.command("pause")
def pause_(chain_id: ChainId, by: By, reason: Reason) -> None:
    """Stop holds, sweeps and releases of a chain, at once. Any one guard may; going on takes two persons."""
    with _database() as connection:
        is_new = pause(connection, chain_id, reason=reason, by=by)
    typer.echo(f"chain {chain_id} is paused" if is_new else f"chain {chain_id} was paused already; its reason stands")


@chain.command("go-on")
def go_on_(chain_id: ChainId, by: By, reason: Reason) -> None:
    """Propose that a paused chain goes on. Two persons sign it (fleet signer approve), then fleet chain agree lifts it."""
    with _database() as connection:
        action = propose_go_on(connection, chain_id, reason=reason, by=by)
    typer.echo(f"proposed as {action}; two persons sign it: fleet signer approve; it is shown by: fleet chain status")


@chain.command("agree")
def agree(
    action: UUID, by: By, agreed: Annotated[str, typer.Option("--hash", help="the hash that the status shows")]
) -> None:
    """Lift the pause that another person proposed to lift and two signed, and resolve the work that it was for."""
    with _database() as connection:
        resolved = go_on(connection, action, agreed_hash=agreed, by=by)
    typer.echo(f"the chain goes on; {resolved} pieces of work are settled with it (fleet stuck shows what is left)")


@chain.command("withdraw")
def withdraw_(action: UUID, by: By) -> None:
    """Close a proposal to go on without going on."""
    with _database() as connection:
        withdraw(connection, action, by=by)
    typer.echo("withdrawn")


def _as_dict(one: ChainState) -> dict[str, Any]:
    return {
        "chain_id": one.chain_id,
        "head_number": one.head_number,
        "head_hash": one.head_hash,
        "agreed_number": one.agreed_number,
        "lag_blocks": one.lag_blocks,
        "head_age_seconds": one.head_age_seconds,
        "seen_age_seconds": one.seen_age_seconds,
        "paused_reason": one.paused_reason,
        "paused_at": None if one.paused_at is None else one.paused_at.isoformat(),
        "nodes": [
            {
                "url": node.url,
                "state": node.state,
                "reason": node.reason,
                "head_number": node.head_number,
                "since": node.since.isoformat(),
            }
            for node in one.nodes
        ],
    }


def _print(states: list[ChainState], waiting: Sequence[Action]) -> None:
    console = Console()
    if not states:
        console.print("no chain was seen yet; start its watcher: fleet watch")
        return
    table = Table("chain", "head", "agreed", "lag", "head is", "seen", Column("paused", overflow="fold"), box=None)
    nodes = Table("chain", Column("node", overflow="fold"), "state", "head", Column("why", overflow="fold"), box=None)
    for one in states:
        paused = "" if one.paused_reason is None else f"since {one.paused_at:%Y-%m-%d %H:%M:%S}: {one.paused_reason}"
        table.add_row(
            str(one.chain_id),
            str(one.head_number),
            "none" if one.agreed_number is None else str(one.agreed_number),
            "" if one.lag_blocks is None else f"{one.lag_blocks} blocks",
            f"{one.head_age_seconds} s old",
            f"{one.seen_age_seconds} s ago",
            shown(paused),
            style="red" if paused else None,
        )
        for node in one.nodes:
            nodes.add_row(
                str(one.chain_id),
                shown(node.url),
                node.state,
                "" if node.head_number is None else str(node.head_number),
                shown(node.reason or ""),
                style=None if node.state == "healthy" else "red",
            )
    console.print(table)
    if nodes.row_count:
        console.print(nodes)
    if waiting:
        proposals = Table(
            "action", "chain", Column("why", overflow="fold"), "proposed by", "signed by", "settles", "hash", box=None
        )
        for action in waiting:
            proposals.add_row(
                str(action.id),
                str(action.chain_id),
                shown(action.reason),
                shown(action.proposed_by),
                ", ".join(action.signed_by),
                f"{len(action.parameters['resolves'])} pieces of work",
                action.hash,
            )
        console.print(
            "\nproposed to go on; signed by two it is lifted with: fleet chain agree ACTION --hash HASH --by NAME"
        )
        console.print(proposals)


def register(app: typer.Typer) -> None:
    app.add_typer(chain, name="chain")
