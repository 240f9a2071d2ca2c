"""What tamper evidence costs: verifying a sealed ledger against making it, and appends beside a sealer at work."""

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from benchmarks.ledger_workload import PAYMENTS, Ledger
from benchmarks.measure import Row, compare
from benchmarks.servers import BenchmarkDatabase, benchmark_database
from custody.ledger.seal_keys import SealKey, key_id
from custody.ledger.seals import oldest_unsealed, seal_next
from custody.ledger.verification import verify
from custody.store.engine import open_engine, transaction

BATCHES: Final = 60  # of 500 entries, beside the 10,000 that were there
SEAL_SECONDS: Final = 0.1  # the sealer's shortest interval

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as database:
        ledger = Ledger(database)
        key = SealKey(Ed25519PrivateKey.generate())
        sealer = open_engine(database.url("fleet_sealer"), application="bench-sealer", pool_size=1)
        try:
            yield compare(
                area="verification",
                name="appends, one a transaction, 1 connection, while the sealer seals",
                ours=lambda: _beside_a_sealer(ledger, sealer, key),
                peer=lambda: ledger.post(connections=1),
                peer_name="without a sealer",
                unit="entries/s",
                at_least=0.8,  # half of two cores is the sealer's and the client's
                progress=progress,
            )
            ledger.batches(BATCHES)
            _seal_to_the_end(sealer, key)
            yield compare(
                area="verification",
                name=f"fleet ledger verify over {PAYMENTS + 500 * BATCHES:,} entries and more, every hash, link and seal",
                ours=lambda: _verified(database, sealer, key),
                peer=lambda: ledger.post(connections=1),
                peer_name="post_entry, one a transaction, 1 connection",
                unit="entries/s",
                at_least=20,
                progress=progress,
            )
        finally:
            sealer.dispose()


def _verified(database: BenchmarkDatabase, sealer: Engine, key: SealKey) -> float:
    """Entries verified a second. What the peer's run has added is sealed first, outside the time."""
    _seal_to_the_end(sealer, key)
    engine = open_engine(database.url("fleet_operator"), application="bench-verify", pool_size=1)
    try:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            started = time.perf_counter()
            report = verify(connection, {key_id(key.public): key.public})
            took = time.perf_counter() - started
    finally:
        engine.dispose()
    if report.problems:
        raise ValueError(f"verify: expected no problem, got {report.problems[0]}")
    return report.entries / took


def _beside_a_sealer(ledger: Ledger, sealer: Engine, key: SealKey) -> float:
    with _sealing(sealer, key):
        return ledger.post(connections=1)


@contextmanager
def _sealing(sealer: Engine, key: SealKey) -> Generator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(SEAL_SECONDS):
            _seal(sealer, key)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _seal(sealer: Engine, key: SealKey) -> bool:
    with transaction(sealer) as connection:
        return seal_next(connection, key) is not None


def _seal_to_the_end(sealer: Engine, key: SealKey) -> None:
    while True:
        while _seal(sealer, key):
            pass
        with transaction(sealer) as connection:
            if oldest_unsealed(connection) is None:
                return
