"""``fleet pause`` and ``fleet unpause``: any one guard stops chains at once, two persons let them go on (R10)."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal

import typer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from custody.chain.pauses import ChainState, chain_states, pause, propose_go_on
from custody.ledger.entries import LedgerRefusal
from custody.settings.environment import settings
from custody.store.engine import open_engine, ring_relay, transaction

Outcome = Literal["paused", "already_paused", "proposed", "not_paused", "failed"]
_BAD: Final = frozenset({"failed"})

Chain = Annotated[int | None, typer.Argument(metavar="[CHAIN]", help="the chain's id; or --all")]
All = Annotated[bool, typer.Option("--all", help="every chain that a watcher has seen")]
By = Annotated[str, typer.Option(help="who (a label, never an authority)")]
Reason = Annotated[str, typer.Option(help="why, at most 500 characters")]
AsJson = Annotated[bool, typer.Option("--json", help="what became of each chain, as JSON")]


def pause_(chain: Chain = None, *, by: By, reason: Reason, every: All = False, as_json: AsJson = False) -> None:
    """Stop holds, sweeps and releases of one chain or of all, at once. Any one guard may.

    Nothing is lost: watching goes on, and so do the books. What is on a signer's device already may still be sent by that
    person; nothing new is handed out. Of a chain that is paused the first reason stands. Going on takes two persons:
    fleet unpause.

    [bold]fleet pause --all --by mina --reason "the treasury's balance looks odd"[/bold]

    Exit code 0 once each named chain is paused, else 2.
    """

    def stop(connection: Connection, state: ChainState) -> dict[str, Any]:
        if pause(connection, state.chain_id, reason=reason, by=by):
            return _said(state, "paused", f"chain {state.chain_id} is paused")
        return _said(
            state,
            "already_paused",
            f"chain {state.chain_id} was paused already; its reason stands: {state.paused_reason or 'see fleet chain status'}",
        )

    _each(chain, stop, every=every, as_json=as_json)


def unpause(chain: Chain = None, *, by: By, reason: Reason, every: All = False, as_json: AsJson = False) -> None:
    """Propose that one paused chain, or each that is paused, goes on. Nothing goes on yet.

    Each proposal is bound to this very pause and to the work behind it: if more happens, it is proposed anew. Then:

    1. two persons sign it on their devices: [bold]fleet signer approve[/bold]

    2. another person than who proposed lifts it: [bold]fleet chain agree ACTION --hash HASH --by OTHER[/bold], with the hash
    that [bold]fleet chain status[/bold] shows

    Settle the reason of the pause first: fleet stuck, fleet ledger escrow. Exit code 0 once each is proposed, else 2.
    """

    def propose(connection: Connection, state: ChainState) -> dict[str, Any]:
        if every and state.paused_reason is None:
            return _said(state, "not_paused", f"chain {state.chain_id} is not paused")
        action = propose_go_on(connection, state.chain_id, reason=reason, by=by)
        return _said(
            state,
            "proposed",
            f"chain {state.chain_id}: proposed as {action}; two persons sign it (fleet signer approve), then another "
            f"lifts it: fleet chain agree {action} --hash HASH --by OTHER (fleet chain status shows the hash)",
        ) | {"action": str(action)}

    _each(chain, propose, every=every, as_json=as_json)


def _said(state: ChainState, outcome: Outcome, sentence: str) -> dict[str, Any]:
    return {"chain_id": state.chain_id, "outcome": outcome, "sentence": sentence}


def _each(
    chain: int | None, act: Callable[[Connection, ChainState], dict[str, Any]], *, every: bool, as_json: bool
) -> None:
    """Each chain in a transaction of its own: one that cannot be reached now keeps no other from being stopped."""
    if (chain is None) is not every:
        _refuse("expected one chain's id, or --all for every chain that a watcher has seen")
    with _engine() as engine:
        with transaction(engine) as connection:
            states = [one for one in chain_states(connection) if every or one.chain_id == chain]
        if not states:
            named = "any chain" if chain is None else f"chain {chain}"
            _refuse(f"no watcher has seen {named} yet: there is nothing to pause. See fleet status and CHAINS_FILE")
        outcomes: list[dict[str, Any]] = []
        for state in states:
            try:
                with transaction(engine) as connection:
                    outcomes.append(act(connection, state))
            except (LedgerRefusal, LookupError, ValueError) as error:
                outcomes.append(_said(state, "failed", str(error).splitlines()[0]))
            except OperationalError:  # a lock that is held too long, or a server that went away
                outcomes.append(
                    _said(
                        state, "failed", f"chain {state.chain_id} was not changed: the database did not answer; again"
                    )
                )
        ring_relay(engine)
    if as_json:
        typer.echo(json.dumps({"chains": outcomes}, indent=2))
    else:
        for each in outcomes:
            is_bad = each["outcome"] in _BAD
            typer.secho(each["sentence"], fg="red" if is_bad else None, err=is_bad)
    if any(each["outcome"] in _BAD for each in outcomes):
        raise typer.Exit(2)


@contextmanager
def _engine() -> Generator[Engine]:
    engine = open_engine(settings().secret("database_url"), application="fleet-pause", pool_size=1)
    try:
        yield engine
    finally:
        engine.dispose()


def _refuse(sentence: str) -> None:
    typer.secho(sentence, fg="red", err=True)
    raise typer.Exit(2)


def register(app: typer.Typer) -> None:
    app.command("pause")(pause_)
    app.command("unpause")(unpause)
