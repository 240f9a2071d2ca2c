"""``fleet confirmations``: every transfer that waits for its depth, live."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import typer
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from custody.chain.block_time import about, seconds_text
from custody.chain.chain_state import Hindrance
from custody.chain.depth import floor
from custody.payments.waiting import Waiting, WaitingList, WatchedChain, nearest, watched_chains
from custody.settings.environment import SettingsError, settings
from custody.settings.thresholds import SettingRefused
from custody.store.engine import open_engine, sqlstate
from workers.cli.terminal import ago, shown

REFRESH_SECONDS: Final = 1.0
LIMIT_DEFAULT: Final = 20
LIMIT_MAXIMUM: Final = 1_000
BAR_WIDTH: Final = 10
WIDTH_OF_WHOLE_IDS: Final = 140  # characters; a narrower terminal shows the end of each payment's id
WIDTH_OF_BARS: Final = 110  # a narrower one has no room for bars and transactions either
WIDTH_OF_A_PIPE: Final = 180  # nothing is cut where a program or a file reads
LINES_AROUND: Final = 6  # of the live table: two headings, a star's meaning, a blank, what is left out, an error

_NEVER_STARTED: Final = (
    "no chain was watched yet. Start the fleet with `fleet up`; if it runs, `fleet status` shows the watcher"
)
_STYLES: Final = {
    "paused": "red",
    "given_up": "red",
    "quorum": "yellow",
    "watcher": "yellow",
    "depth": "",
    "judgement": "green",
}


@dataclass(frozen=True, slots=True)
class View:
    """What one look at the database shows, all of the same moment."""

    chains: list[WatchedChain]
    waiting: WaitingList
    at: datetime | None
    """The database's clock; None while it knows no chain."""


def confirmations(
    chain: Annotated[int | None, typer.Option("--chain", help="one chain's id; default: all")] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=LIMIT_MAXIMUM, help="transfers shown; the rest is counted")
    ] = LIMIT_DEFAULT,
    once: Annotated[bool, typer.Option("--once", help="print once and end; a pipe does the same")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="once, as JSON; docs/operate.md lists its keys")] = False,
) -> None:
    """Transfers that were seen and are not held yet: how deep each is, how long it still takes, what blocks it.

    A live table, renewed each second until Ctrl-C. The soonest comes first; what cannot say when comes last.

    [bold]confirmations[/bold] are counted from the newest block that a quorum of nodes agrees on, up to the chain's threshold.
    [bold]ready in[/bold] is the missing blocks times the chain's time a block, and empty while something else than
    depth blocks: the chain is paused, too few nodes agree (quorum), the watcher is silent, or holding was given up.
    [bold]since[/bold] is when that began, or when the transfer was seen.

    The head of the table has each chain: its newest block, the newest agreed one, healthy of configured nodes.

    Examples: [cyan]fleet confirmations --chain 56[/cyan], [cyan]fleet confirmations --once | less[/cyan],
    [cyan]fleet confirmations --json --limit 1000[/cyan]. For one payment's whole story: [cyan]fleet explain PAYMENT[/cyan].
    """
    if chain is not None:
        floor(chain)
    console = Console()
    engine = _engine()
    try:
        if as_json:
            view = look(engine, chain, limit)
            typer.echo(json.dumps(as_dict(view), indent=2))
        elif once or not console.is_terminal:
            if not console.is_terminal:
                console.width = max(console.width, WIDTH_OF_A_PIPE)
            view = look(engine, chain, limit)
            console.print(render(view, console.width))
        else:
            _watch(console, engine, chain, limit)
            return
    finally:
        engine.dispose()
    if not view.chains:
        typer.secho(_NEVER_STARTED, fg="red", err=True)
        raise typer.Exit(1)


def _engine() -> Engine:
    if settings().database_url is None:
        raise SettingsError(
            "DATABASE_URL is not set and this folder's fleet was never started: start it with `fleet up`, "
            "or set DATABASE_URL to that of the role fleet_operator"
        )
    return open_engine(settings().secret("database_url"), application="fleet-confirmations", pool_size=1)


def look(engine: Engine, chain_id: int | None, limit: int) -> View:
    """One consistent look: four queries whatever the number of transfers. Raises SettingsError that says what to do."""
    try:
        with engine.connect().execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        ) as connection:
            chains = watched_chains(connection, None if chain_id is None else [chain_id])
            found = nearest(connection, chains, limit)
    except OperationalError as error:
        raise SettingsError(
            f"the database that DATABASE_URL names does not answer: {error.orig}\n"
            "See `fleet status`; a fleet that was stopped starts with `fleet up`"
        ) from None
    except (ValueError, SettingRefused) as error:  # a threshold row that is no number of blocks
        raise SettingsError(str(error)) from None
    except ProgrammingError as error:
        raise SettingsError(_unready(error)) from None
    each = list(chains.values())
    return View(each, found, each[0].state.read_at if each else None)


def _unready(error: ProgrammingError) -> str:
    if sqlstate(error) == "42501":
        return "DATABASE_URL is of a role that may not read this: set it to that of fleet_operator"
    return (
        "the database that DATABASE_URL names is not this fleet's, or older than it: `fleet up` makes a new one, "
        "`fleet db upgrade` brings one up to date"
    )


def _watch(console: Console, engine: Engine, chain_id: int | None, limit: int) -> None:
    """Until Ctrl-C. A database that goes away is waited for, and the table says so."""
    shown_last: RenderableType = Text()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        try:
            while True:
                try:
                    shown_last = render(look(engine, chain_id, limit), console.width, console.height)
                    live.update(shown_last, refresh=True)
                except SettingsError as error:
                    live.update(Group(shown_last, Text(f"{error}; trying again", style="red")), refresh=True)
                time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            return


def render(view: View, width: int, height: int | None = None) -> Group:
    """The table as a terminal of ``width`` characters shows it, in at most about ``height`` lines."""
    if view.at is None:
        return Group(Text(_NEVER_STARTED, style="yellow"))
    parts: list[RenderableType] = [chain_table(view.chains, view.at), Text()]
    transfers = view.waiting.transfers
    if height is not None:
        # What is cut off at a terminal's end says nothing; what is counted does.
        above = sum(1 + len(chain.state.not_healthy) for chain in view.chains)
        transfers = transfers[: max(1, height - above - LINES_AROUND)]
    if transfers:
        parts.append(transfer_table(transfers, view.at, width))
    else:
        parts.append(Text("no transfer waits for confirmations", style="green"))
    left_out = view.waiting.total - len(transfers)
    if left_out:
        parts.append(Text(f"and {left_out} more", style="dim"))
    return Group(*parts)


def chain_table(chains: Iterable[WatchedChain], now: datetime) -> Table:
    """A line a chain, and one for each of its nodes that is not healthy."""
    table = Table(
        "chain",
        Column("head", justify="right"),
        Column("agreed", justify="right"),
        Column("nodes", justify="right"),
        Column("threshold", justify="right"),
        Column("a block", justify="right"),
        Column("state", overflow="fold"),
        box=None,
        pad_edge=False,
        caption_justify="left",
    )
    for chain in chains:
        state = chain.state
        hindrance = state.hindrance
        if not state.pace.is_measured:
            table.caption = "* as documented: too few blocks were scanned to measure it"
        pace = f"{seconds_text(state.pace.seconds)} s" + ("" if state.pace.is_measured else " *")
        table.add_row(
            str(state.chain_id),
            _number(state.head_number),
            _number(state.top),
            f"{state.healthy} of {len(state.nodes)}" if state.nodes else "unknown",
            str(chain.threshold.blocks),
            pace,
            Text("watching", style="green")
            if hindrance is None
            else _styled(_with_since(hindrance.what, hindrance.since, now), hindrance.code),
        )
        for node in state.not_healthy:
            said = f"node {node.place + 1}, {node.url}, {node.state}: {node.reason or 'no reason given'}"
            table.add_row("", "", "", "", "", "", _styled(_with_since(said, node.since, now), "quorum"))
    return table


def transfer_table(transfers: Iterable[Waiting], now: datetime, width: int) -> Table:
    """A line a transfer, in the order given; a narrow terminal shows less of each, never half a number."""
    whole_ids, with_bar = width >= WIDTH_OF_WHOLE_IDS, width >= WIDTH_OF_BARS
    table = Table(
        Column("payment", no_wrap=True),
        Column("amount", justify="right", no_wrap=True),
        Column("chain", justify="right", no_wrap=True),
        *([Column("transaction", no_wrap=True)] if with_bar else []),
        Column("confirmations" if with_bar else "depth", justify="right", no_wrap=True),
        *([Column("", width=BAR_WIDTH)] if with_bar else []),
        Column("ready in", justify="right", no_wrap=True),
        Column("blocked by", no_wrap=True, overflow="ellipsis", ratio=1),
        Column("since", justify="right", no_wrap=True),
        box=None,
        pad_edge=False,
        expand=True,
    )
    for transfer in transfers:
        blocked, threshold = transfer.blocked, transfer.threshold.blocks
        name, transaction = str(transfer.payment_id), transfer.transaction_hash
        done = min(transfer.confirmations, threshold)
        table.add_row(
            name if whole_ids else f"…{name[-12:]}",
            shown(f"{_exact(transfer.amount)} {transfer.symbol}"),
            str(transfer.chain_id),
            *([f"{transaction[:8]}…{transaction[-4:]}"] if with_bar else []),
            f"{transfer.confirmations}/{threshold}",
            *([Bar(threshold, 0, done, width=BAR_WIDTH, color="green")] if with_bar else []),
            _ready_in(transfer),
            _styled(_short(transfer, blocked), blocked.code),
            "" if blocked.since is None else ago(blocked.since, now),
        )
    return table


def _ready_in(transfer: Waiting) -> str:
    seconds = transfer.eta_seconds
    if seconds is None:
        return ""
    return about(seconds) if seconds else "now"


def _short(transfer: Waiting, blocked: Hindrance) -> str:
    """The chain has a column of its own."""
    return f"paused: {transfer.paused_reason}" if blocked.code == "paused" else blocked.what


def _exact(amount: Decimal) -> str:
    """Every digit, without zeros at the end: ``normalize`` would round to 28."""
    written = f"{amount:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _number(number: int | None) -> str:
    return "none" if number is None else str(number)


def _styled(said: str, code: str) -> Text:
    text = shown(said)
    text.stylize(_STYLES[code])
    return text


def _with_since(said: str, since: datetime | None, now: datetime) -> str:
    return said if since is None else f"{said} (for {ago(since, now)})"


def as_dict(view: View) -> dict[str, Any]:
    """The view for programs; docs/operate.md names the keys, which stay. Amounts and seconds a block are text."""
    return {
        "at": None if view.at is None else view.at.isoformat(),
        "waiting": view.waiting.total,
        "chains": [chain_as_json(chain) for chain in view.chains],
        "transfers": [transfer_as_json(transfer) for transfer in view.waiting.transfers],
    }


def chain_as_json(chain: WatchedChain) -> dict[str, Any]:
    state, hindrance = chain.state, chain.state.hindrance
    return {
        "chain_id": state.chain_id,
        "head_number": state.head_number,
        "agreed_number": state.top,
        "seen_at": _time(state.seen_at),
        "paused_reason": state.paused_reason,
        "blocked_by": None if hindrance is None else hindrance.code,
        "blocked": None if hindrance is None else hindrance.what,
        "since": None if hindrance is None else _time(hindrance.since),
        "quorum": state.quorum,
        "nodes_healthy": state.healthy,
        "nodes_configured": len(state.nodes),
        "nodes": [
            {
                "place": node.place,
                "url": node.url,
                "state": node.state,
                "reason": node.reason,
                "head_number": node.head_number,
                "since": _time(node.since),
            }
            for node in state.nodes
        ],
        **_threshold_as_json(chain),
        "block_seconds": seconds_text(state.pace.seconds),
        "block_seconds_measured": state.pace.is_measured,
    }


def transfer_as_json(transfer: Waiting) -> dict[str, Any]:
    seconds, blocked = transfer.eta_seconds, transfer.blocked
    return {
        "payment": str(transfer.payment_id),
        "chain_id": transfer.chain_id,
        "token": transfer.token,
        "symbol": transfer.symbol,
        "amount": _exact(transfer.amount),
        "transaction_hash": transfer.transaction_hash,
        "block_number": transfer.block_number,
        "confirmations": transfer.confirmations,
        "blocks_missing": transfer.blocks_missing,
        **_threshold_as_json(transfer.chain),
        "eta_seconds": None if seconds is None else -(-seconds.numerator // seconds.denominator),
        "blocked_by": blocked.code,
        "blocked": blocked.what,
        "unblocks": blocked.unblocks,
        "since": _time(blocked.since),
        "seen_at": _time(transfer.seen_at),
    }


def _threshold_as_json(chain: WatchedChain) -> dict[str, Any]:
    history_id = chain.threshold.history_id
    return {
        "threshold": chain.threshold.blocks,
        "threshold_source": chain.threshold_source,
        "threshold_history_id": None if history_id is None else str(history_id),
        "threshold_floor": floor(chain.state.chain_id),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def register(app: typer.Typer) -> None:
    app.command()(confirmations)
