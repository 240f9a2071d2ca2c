"""A block's payments seen and booked in one round of the watcher, 100 of 10,000 pending ones: all in one transaction, and
one in each. Two nodes are asked, both the Anvil that runs here; the round ends with the last commit.
"""

import logging
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

import structlog

from benchmarks.measure import Row, compare
from benchmarks.servers import benchmark_database
from benchmarks.watched_chain import (
    CALLS_AT_ONCE,
    BenchmarkChain,
    Watch,
    benchmark_chain,
    fill,
    issued_address,
    load_said,
    open_watch,
)
from custody.chain import answering

PENDING: Final = 10_000
PAID: Final = CALLS_AT_ONCE  # a block, and a round's looks: what the product promises to see at once

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    # A line a payment is written after the commit; to a terminal it costs as much as the booking.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with benchmark_chain() as chain, benchmark_database() as database:
        progress(f"{PENDING:,} payments")
        fill(database, chain, pending=PENDING, issued=PENDING, seen=False)
        watch = open_watch(database, chain, chain.url, chain.url.replace("127.0.0.1", "localhost"))
        rounds = Rounds(chain, watch)
        try:
            rounds.book(answering.LOOKS_TOGETHER)  # connections and plans are made once a process
            yield compare(
                area="detection",
                name=f"{PAID} payments of one block seen and booked, {PENDING:,} pending, two nodes asked",
                ours=lambda: rounds.book(answering.LOOKS_TOGETHER),
                peer=lambda: rounds.book(1),
                peer_name=f"one look a transaction; load {load_said()}",
                unit="ms",
                at_most=0.4,
                progress=progress,
            )
        finally:
            watch.close()


class Rounds:
    """A chain whose next block always pays the next addresses, and the watcher's round over it."""

    def __init__(self, chain: BenchmarkChain, watch: Watch) -> None:
        self._chain = chain
        self._watch = watch
        self._next = count(1)

    def book(self, together: int) -> float:
        """Milliseconds of the round that books the next block's payments, ``together`` of them a transaction."""
        self._chain.send(self._chain.signed(issued_address(next(self._next)) for _ in range(PAID)))
        self._chain.mine()
        usual, answering.LOOKS_TOGETHER = answering.LOOKS_TOGETHER, together  # pyright: ignore[reportAttributeAccessIssue]
        try:
            started = time.perf_counter()
            booked = self._watch.blocks.tick(PAID)
            taken = time.perf_counter() - started
        finally:
            answering.LOOKS_TOGETHER = usual  # pyright: ignore[reportAttributeAccessIssue]
        if booked != PAID:
            raise RuntimeError(f"{booked} of {PAID} payments were booked")
        return taken * 1_000
