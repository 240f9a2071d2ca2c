"""Watching a chain: what it asks of a node and of Postgres, how fast it catches up, and how soon money is held.

The chain is an Anvil with the real USDT, and every figure is taken from the code that runs in production: ``BlockWatch`` in
this process where requests, CPU and speed are counted, the real processes where time passes between them. The peers are
limits that the design sets, the same watcher with next to nothing to do, the node itself, and the poller that everybody
writes first: it asks for the receipt of each pending payment at every block.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from benchmarks.counting_proxy import Counts, counting_proxy
from benchmarks.holding_latency import latencies, percentile
from benchmarks.measure import RUNS_MINIMUM, Row, compare
from benchmarks.servers import BenchmarkDatabase, benchmark_database
from benchmarks.watched_chain import (
    CALLS_AT_ONCE,
    BenchmarkChain,
    JsonRpc,
    Watch,
    benchmark_chain,
    fill,
    issued_address,
    load_said,
    open_watch,
    stranger,
)
from custody.chain.scanning import Watched
from custody.chain.watching import WINDOW_MAXIMUM_BLOCKS
from workers.watcher import HEAD_SECONDS

# (payments whose money is seen and waits for depth, addresses ever issued)
SIZES: Final = ((1, 1), (100, 100), (10_000, 10_000), (10_000, 1_000_000))
LEAST, MOST = SIZES[0], SIZES[-1]
BLOCKS: Final = 60  # a run, each scanned as it is mined
TRANSFERS: Final = 20  # of the watched token in each of them, to strangers
CALLS_LIMIT: Final = 6
CATCH_UP_BLOCKS: Final = 2_000
CATCH_UP_EVERY: Final = 10  # one block in so many pays an issued address
CATCH_UP_LIMIT: Final = 200.0  # blocks a second; the fastest chain of the fleet makes four
MATCHED: Final = 10  # payments that one block brings, for the calls they cost
BESIDE_POLL_SECONDS: Final = 0.25

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_chain() as chain, ExitStack() as stack:
        watched: dict[tuple[int, int], _Measured] = {}
        for pending, issued in SIZES:
            progress(f"issuing {issued:,} addresses")
            database = stack.enter_context(benchmark_database(keep_running=bool(watched)))
            fill(database, chain, pending=pending, issued=issued, seen=True)
            url, counts = stack.enter_context(counting_proxy(chain.url))
            watch = open_watch(database, chain, url)
            stack.callback(watch.close)
            watched[pending, issued] = _Measured(database, watch, counts)
        for run in range(RUNS_MINIMUM):
            progress(f"scanning {BLOCKS} blocks one by one: run {run + 1} of {RUNS_MINIMUM}")
            _scan(chain, list(watched.values()))
        yield from _requests(chain, watched, progress)
        yield from _database(watched)
        yield _matched(chain, watched[LEAST])
        yield from _catching_up(chain, watched[MOST], progress)
    yield from _held(progress)


@dataclass
class _Measured:
    """One watcher over one database, and a figure a run of everything that it was measured by."""

    database: BenchmarkDatabase
    watch: Watch
    counts: Counts
    requests: list[float] = field(default_factory=list[float])
    calls: list[float] = field(default_factory=list[float])
    cpu_us: list[float] = field(default_factory=list[float])


def _scan(chain: BenchmarkChain, watched: list[_Measured]) -> None:
    """Every watcher scans each block before the next one is mined, so that all of them meet the same minute."""
    signed = iter(chain.signed(stranger() for _ in range(BLOCKS * TRANSFERS)))
    for each in watched:
        each.counts.take()
    before = [each.watch.cpu_seconds() for each in watched]
    for _ in range(BLOCKS):
        chain.send([next(signed) for _ in range(TRANSFERS)])
        chain.mine()
        for each in watched:
            each.watch.blocks.tick(CALLS_AT_ONCE)
    for each, cpu in zip(watched, before, strict=True):
        each.cpu_us.append((each.watch.cpu_seconds() - cpu) / BLOCKS * 1e6)
        taken = each.counts.take()
        each.requests.append(taken.requests / BLOCKS)
        each.calls.append(taken.all_calls / BLOCKS)


def _requests(chain: BenchmarkChain, watched: dict[tuple[int, int], _Measured], progress: Progress) -> Iterable[Row]:
    """What one node is asked for one block, by its own count."""
    for (pending, issued), found in watched.items():
        said = f"{pending:,} pending, {issued:,} issued"
        yield compare(
            area="chain",
            name=f"requests a block and node, {said}",
            ours=_each(found.requests),
            peer=lambda: 1.0,
            peer_name="the limit: one batched request",
            unit="requests",
            at_most=1,
        )
        yield compare(
            area="chain",
            name=f"calls a block and node, {said}",
            ours=_each(found.calls),
            peer=lambda: float(CALLS_LIMIT),
            peer_name="the limit",
            unit="calls",
            at_most=1,
        )
        if issued == pending:
            yield compare(
                area="chain",
                name=f"calls a block and node, {pending:,} pending, beside the naive poller",
                ours=_each(found.calls),
                peer=lambda n=pending: _naive(chain, n),
                peer_name="head, and one receipt a pending payment",
                unit="calls",
                at_most=0.01 if pending >= 10_000 else None,
                progress=progress,
            )


def _naive(chain: BenchmarkChain, pending: int) -> float:
    """The calls of the poller for one block, made and counted. It batches them, which spares requests and no call."""
    chain.mine()
    with counting_proxy(chain.url) as (url, counts):
        poller = JsonRpc(url)
        poller.rpc("eth_blockNumber")
        poller.batch([("eth_getTransactionReceipt", [f"0x{number:064x}"]) for number in range(pending)])
        poller.close()
        return float(counts.take().all_calls)


def _database(watched: dict[tuple[int, int], _Measured]) -> Iterable[Row]:
    """What one block costs Postgres: the CPU of the server's process that serves the watcher, by the kernel's count."""
    for pending, issued in SIZES[1:]:
        yield compare(
            area="chain",
            name=f"the server's CPU a block of {TRANSFERS} transfers, {pending:,} pending, {issued:,} issued",
            ours=_each(watched[pending, issued].cpu_us),
            peer=_each(watched[LEAST].cpu_us),
            peer_name="1 pending, 1 issued, the same blocks",
            unit="us",
            at_most=1.2,
        )


def _matched(chain: BenchmarkChain, found: _Measured) -> Row:
    """What is asked beside the scan for transactions that did pay one of our addresses: their receipts, once each."""

    def ours() -> float:
        chain.send(chain.signed(issued_address(1) for _ in range(MATCHED)))
        chain.mine()
        found.counts.take()
        found.watch.blocks.tick(CALLS_AT_ONCE)
        return found.counts.take().calls.get("eth_getTransactionReceipt", 0) / MATCHED

    return compare(
        area="chain",
        name=f"receipts a matched transaction, {MATCHED} of them in a block",
        ours=ours,
        peer=lambda: 1.0,
        peer_name="one each",
        unit="calls",
        at_most=1,
    )


def _catching_up(chain: BenchmarkChain, found: _Measured, progress: Progress) -> Iterable[Row]:
    """A watcher that was away: blocks a second until it stands at the head with every payment booked.

    Every run has blocks of its own, so each payment is booked for the first time. The node alone: the same batched
    requests, of which nothing is read but the JSON.
    """
    alone: list[float] = []
    paid = iter(range(1, MOST[0]))

    def ours() -> float:
        first = chain.tip().number + 1
        for signed in chain.signed(issued_address(next(paid)) for _ in range(CATCH_UP_BLOCKS // CATCH_UP_EVERY)):
            chain.send([signed])
            chain.mine(CATCH_UP_EVERY)
        started = perf_counter()
        while found.watch.blocks.tick(CALLS_AT_ONCE):
            pass
        took = perf_counter() - started
        alone.append(_node_alone(found.watch, first, chain.tip().number))
        return CATCH_UP_BLOCKS / took

    ours_again: list[float] = []

    def kept() -> float:
        ours_again.append(ours())
        return ours_again[-1]

    yield compare(
        area="chain",
        name=f"catching up over {CATCH_UP_BLOCKS:,} blocks, one in {CATCH_UP_EVERY} with a payment, all booked",
        ours=kept,
        peer=lambda: CATCH_UP_LIMIT,
        peer_name="the goal",
        unit="blocks/s",
        at_least=1,
        progress=progress,
    )
    yield compare(
        area="chain",
        name="the same, beside the node",
        ours=_each(ours_again),
        peer=_each(alone),
        peer_name="the same requests, nothing done with the answers",
        unit="blocks/s",
    )


def _node_alone(watch: Watch, first: int, last: int) -> float:
    watched, client = Watched.of(watch.chain), watch.blocks.panel.nodes[0].client
    started = perf_counter()
    for start in range(first, last + 1, WINDOW_MAXIMUM_BLOCKS):
        numbers = range(start, min(start + WINDOW_MAXIMUM_BLOCKS, last + 1))
        query = {
            "fromBlock": hex(numbers[0]),
            "toBlock": hex(numbers[-1]),
            "address": sorted(watched.events),
            "topics": [watched.topics],
        }
        client.ask(
            [
                *(("eth_getBlockByNumber", [hex(number), True]) for number in numbers),
                ("eth_getLogs", [query]),
            ]
        )
    return (last - first + 1) / (perf_counter() - started)


def _held(progress: Progress) -> Iterable[Row]:
    """From a block to the committed hold of what it makes deep enough, through watcher, relay, Valkey and worker."""
    found = latencies(progress)
    limit = HEAD_SECONDS + BESIDE_POLL_SECONDS
    for share, at_most in ((50, None), (99, 1.0)):
        ours = percentile(found, share)
        yield Row(
            area="chain",
            name=f"block mined to hold committed, p{share} of {len(found):,} holds, 10,000 pending",
            ours=ours,
            peer=limit,
            peer_name=f"one look at the head ({HEAD_SECONDS:g} s) and {BESIDE_POLL_SECONDS:g} s; load {load_said()}",
            ratio=ours / limit,
            unit="s",
            goal="none, for information" if at_most is None else f"<= {at_most:g} x",
            met=at_most is None or ours <= at_most * limit,
        )


def _each(figures: list[float]) -> Callable[[], float]:
    """What was measured run by run, in that order."""
    taken: Iterator[float] = iter(figures)
    return lambda: next(taken)
