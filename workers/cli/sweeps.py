"""``fleet sweeps``: what would be swept, how and for how much; and a round of it now."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from time import monotonic, sleep
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import Engine, text

from custody.chain import ChainClient, connections, to_amount
from custody.destinations.keys.client import KeysAgent, KeysAgentAway
from custody.destinations.sweeps.choosing import Choosing, Economics, value_in_wei
from custody.destinations.sweeps.planner import Candidate, Verdict, candidates
from custody.destinations.sweeps.signing import SweepSigner
from custody.settings.chains import Chains, load_chains
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from custody.store.outbox import ring
from workers.cli.terminal import shown

sweeps = typer.Typer(no_args_is_help=True, help="Bringing coins from deposit addresses to the treasury.")

ROWS_MAXIMUM: Final = 500  # destinations looked at; those that nothing keeps back come first
WATCH_SECONDS: Final = 120  # without progress; then the jobs' reasons say what they wait for
_POLL_SECONDS: Final = 0.5
_PERCENT: Final = 100

_Rows = list[tuple[Candidate, Verdict | None]]


@sweeps.command()
def plan(
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAXIMUM, help="destinations to look at")] = 100,
) -> None:
    """Show each destination with coins: how it would be swept, what that costs, and why it waits.

    Costs are the node's own estimates of the real calls, at the newest block's price. Nothing is sent.
    """
    engine = open_engine(settings().secret("database_url"), application="fleet-sweeps")
    try:
        _print_plan(Console(), _chains(), _surveyed(engine, limit))
    finally:
        engine.dispose()


@sweeps.command()
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
) -> None:
    """Have the sweeps worker do a round now, and watch its jobs until nothing goes forward.

    This command has no right to move coins (R9): it rings, the worker sweeps. Exit code 1 if a job failed meanwhile.
    """
    console = Console()
    engine = open_engine(settings().secret("database_url"), application="fleet-sweeps")
    try:
        if dry_run:
            _print_plan(console, _chains(), _surveyed(engine, ROWS_MAXIMUM))
            return
        with transaction(engine) as connection:
            started = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            ring(connection, "sweeps")
        with Live(console=console, auto_refresh=False) as live:
            failed = _watch(engine, live, started)
    finally:
        engine.dispose()
    if failed:
        raise typer.Exit(1)


def _chains() -> Chains:
    return load_chains(settings().path("chains_file"))


def _surveyed(engine: Engine, limit: int) -> _Rows:
    known = settings()
    chains = _chains()
    with transaction(engine) as connection:
        found = candidates(connection, chains, limit=limit)
    clients = {chain.id: ChainClient(connections(chain)[0]) for chain in chains.chains}
    economics = Economics(
        known.sweep_value_multiple,
        timedelta(seconds=known.sweep_max_age_seconds),
        timedelta(seconds=known.sweep_gather_seconds),
    )
    try:
        signer = SweepSigner(KeysAgent(known.path("keys_agent_socket")))
        verdicts = Choosing(economics).judge(clients, chains, signer, found)
    except KeysAgentAway as error:
        verdicts = {
            (each.destination_id, each.token): Verdict("", 0, 0, f"keys_agent_away: {error}")
            for each in found
            if each.reason is None
        }
    finally:
        for client in clients.values():
            client.close()
    return [(each, verdicts.get((each.destination_id, each.token))) for each in found]


def _print_plan(console: Console, chains: Chains, rows: _Rows) -> None:
    if not rows:
        console.print("No destination holds coins that a sweep could take.")
        return
    table = Table(
        "chain", "destination", "value", "method", "gas each", "cost", "of value", "waits for", title="sweeps"
    )
    for candidate, verdict in rows:
        table.add_row(*_cells(chains, candidate, verdict))
    console.print(table)
    for line in dict.fromkeys(_refusals(chains, rows)):
        console.print(shown(line), soft_wrap=True, highlight=False)
    ready = [verdict for one, verdict in rows if one.reason is None and verdict is not None and verdict.reason is None]
    by_method = ", ".join(f"{count} by {name}" for name, count in sorted(Counter(v.strategy for v in ready).items()))
    cost = to_amount(sum(verdict.cost_wei for verdict in ready), 18)
    console.print(
        f"{len(ready)} of {len(rows)} go now{f' ({by_method})' if ready else ''}, for about {cost.normalize():f} coins of gas"
    )


def _refusals(chains: Chains, rows: _Rows) -> Iterator[str]:
    """Why another strategy is none for a chain's token now, a line each: the cheapest one may only look dear."""
    names = {chain.id: chain for chain in chains.chains}
    for candidate, verdict in rows:
        chain = names.get(candidate.chain_id)
        token = None if chain is None else chain.token(candidate.token)
        for strategy, why in ({} if verdict is None else verdict.refusals).items():
            yield (
                f"not by {strategy} on {candidate.chain_id if chain is None else chain.name} "
                f"({candidate.token if token is None else token.symbol}): {why}"
            )


def _cells(chains: Chains, candidate: Candidate, verdict: Verdict | None) -> Sequence[str]:
    known = {chain.id: chain for chain in chains.chains}
    chain = known.get(candidate.chain_id)
    token = None if chain is None else chain.token(candidate.token)
    amount = to_amount(candidate.units, candidate.decimals)
    value = f"{amount.normalize():f} {candidate.token if token is None else token.symbol}"
    reason = candidate.reason or (None if verdict is None else verdict.reason)
    if chain is None or verdict is None or not verdict.strategy:
        return (str(candidate.chain_id), candidate.address, value, "", "", "", "", reason or "")
    worth = value_in_wei(chain, candidate)
    share = "" if not worth else f"{(Decimal(verdict.cost_wei * _PERCENT) * Decimal(worth) ** -1):.2f} %"
    return (
        chain.name,
        candidate.address,
        value,
        verdict.strategy,
        f"{verdict.gas:,}",
        f"{to_amount(verdict.cost_wei, 18).normalize():f}",
        share or "no price",
        reason or "",
    )


def _watch(engine: Engine, live: Live, started: object) -> int:
    """Show jobs by state until none is open or none has moved for WATCH_SECONDS; return how many failed."""
    last: object = None
    moved = monotonic()
    while True:
        with transaction(engine) as connection:
            rows = connection.execute(
                text(
                    """
                    SELECT strategy, state, coalesce(reason, '') AS reason, count(*) AS n FROM fleet.sweep_jobs
                    WHERE state IN ('planned', 'funding', 'transferring') OR updated_at >= :started
                    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
                    """
                ),
                {"started": started},
            ).all()
        table = Table("strategy", "state", "jobs", "why")
        for row in rows:
            table.add_row(row.strategy, row.state, str(row.n), row.reason)
        live.update(table, refresh=True)
        now = [tuple(row) for row in rows]
        if now != last:
            last, moved = now, monotonic()
        is_open = any(row.state in {"planned", "funding", "transferring"} for row in rows)
        waited_seconds = monotonic() - moved
        if waited_seconds > (WATCH_SECONDS if is_open else 10 * _POLL_SECONDS):
            return sum(row.n for row in rows if row.state == "failed")
        sleep(_POLL_SECONDS)


def register(app: typer.Typer) -> None:
    app.add_typer(sweeps, name="sweeps")
