"""The ledger against a raw INSERT of the same columns, against itself, and against pgledger.

FLEET_BENCH_FULL=1 adds the cost at 1,000,000 entries (some minutes). PGLEDGER_SQL=FILE[:FILE...] names pgledger's SQL
files, in the order they load; without it that peer is left out.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.ledger_workload import PAYMENTS, Ledger, pgbench
from benchmarks.measure import Row, compare
from benchmarks.servers import BenchmarkDatabase, benchmark_database

FULL: Final = os.environ.get("FLEET_BENCH_FULL") == "1"
_GOALS: Final = {1: 0.50, 8: 0.60, 32: 0.60}
_RAW: Final = "raw INSERT, the marketplace's own table"

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as database:
        ledger = Ledger(database)
        yield from _one_a_transaction(ledger, progress)
        yield from _hot(ledger, progress)
        yield from _batched(ledger, progress)
        if "PGLEDGER_SQL" in os.environ:
            yield from _against_pgledger(ledger, os.environ["PGLEDGER_SQL"], progress)
    if FULL:
        yield from _at_a_million(progress)


def _one_a_transaction(ledger: Ledger, progress: Progress) -> Iterable[Row]:
    for connections, goal in _GOALS.items():
        for asks, said in ((True, "with"), (False, "without")):
            yield compare(
                area="ledger",
                name=f"post_entry, one a transaction, {said} an outbox row beside it, {connections} connection(s)",
                ours=lambda a=asks, c=connections: ledger.post(connections=c, asks=a),
                peer=lambda c=connections: ledger.raw("raw_entries", connections=c),
                peer_name=_RAW,
                unit="entries/s",
                at_least=goal,
                progress=progress,
            )
        yield compare(
            area="ledger",
            name=f"post_entry, one a transaction, {connections} connection(s), against columns and indexes alone",
            ours=lambda c=connections: ledger.post(connections=c),
            peer=lambda c=connections: ledger.raw("bare_entries", connections=c),
            peer_name="raw INSERT without CHECKs and foreign keys",
            unit="entries/s",
            progress=progress,
        )
    yield compare(
        area="ledger",
        name="what the client costs: a SELECT of one row, 8 connections",
        ours=lambda: pgbench(ledger.database.url("fleet_confirmations"), "SELECT * FROM bench_ids WHERE n = :n", 8),
        peer=lambda: ledger.raw("raw_entries", connections=8),
        peer_name=_RAW,
        unit="transactions/s",
        progress=progress,
    )


def _hot(ledger: Ledger, progress: Progress) -> Iterable[Row]:
    for connections in _GOALS:
        yield compare(
            area="ledger",
            name=f"all entries of one payment, one a transaction, {connections} connection(s)",
            ours=lambda c=connections: ledger.post(connections=c, hot=True),
            peer=lambda c=connections: ledger.post(connections=c),
            peer_name=f"spread over {PAYMENTS:,} payments",
            unit="entries/s",
            at_least=0.8 if connections == 1 else None,
            progress=progress,
        )
    yield compare(
        area="ledger",
        name="all entries of one payment, in batches of 500",
        ours=lambda: ledger.batches(4, payments=1),
        peer=lambda: ledger.batches(4),
        peer_name=f"spread over {PAYMENTS:,} payments",
        unit="entries/s",
        at_least=0.8,
        progress=progress,
    )


def _batched(ledger: Ledger, progress: Progress) -> Iterable[Row]:
    yield compare(
        area="ledger",
        name="post_entries, 500 a transaction, 1 connection",
        ours=lambda: ledger.batches(8),
        peer=lambda: ledger.raw_by_python(1_500),
        peer_name=f"{_RAW}, unbatched, same client",
        unit="entries/s",
        at_least=5,
        progress=progress,
    )


def _against_pgledger(ledger: Ledger, files: str, progress: Progress) -> Iterable[Row]:
    """A transfer between two of N accounts against an entry in one of N payments, 8 connections."""
    with psycopg.connect(ledger.database.admin_url) as connection:
        for name in files.split(os.pathsep):
            connection.execute(Path(name).read_bytes())
        connection.execute("CREATE TABLE public.bench_accounts (n integer PRIMARY KEY, id text)")
        connection.execute(
            "INSERT INTO public.bench_accounts SELECT n, (pgledger_create_account('a' || n, 'USD')).id "
            f"FROM generate_series(1, {PAYMENTS}) AS n".encode()
        )
    ledger.settle()
    for accounts, goal in ((10, 2.0), (PAYMENTS, 1.5)):
        transfer = (
            "SELECT t.id FROM bench_accounts a, bench_accounts b, LATERAL pgledger_create_transfer(a.id, b.id, 1) AS t "
            f"WHERE a.n = :n AND b.n = :n % {accounts} + 1"
        )
        post = ledger.statement(":n")
        yield compare(
            area="ledger",
            name=f"post_entry, one a transaction, {accounts:,} payments, 8 connections",
            ours=lambda n=accounts, s=post: pgbench(ledger.database.url("fleet_confirmations"), s, 8, highest=n),
            peer=lambda n=accounts, s=transfer: pgbench(ledger.database.admin_url, s, 8, highest=n),
            peer_name=f"pgledger transfers, {accounts:,} accounts",
            unit="a second",
            at_least=goal,
            progress=progress,
        )


def _at_a_million(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as small, benchmark_database(keep_running=True) as large:
        few, many = Ledger(small), _filled(large, 1_000_000, progress)
        yield compare(
            area="ledger",
            name="the server's CPU a post_entry at 1,000,000 entries",
            ours=lambda: many.cpu_of_a_post(2_000),
            peer=lambda: few.cpu_of_a_post(2_000),
            peer_name="at 10,000 entries",
            unit="us",
            at_most=1.2,
            progress=progress,
        )


def _filled(database: BenchmarkDatabase, entries: int, progress: Progress) -> Ledger:
    ledger = Ledger(database)
    step = 25_000
    for done in range(PAYMENTS, entries, step):
        progress(f"filling the ledger: {done:,} of {entries:,} entries")
        ledger.batches(step // 500)
    ledger.settle()
    return ledger
