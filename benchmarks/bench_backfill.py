"""A backfill of MongoDB's payments against a loop that upserts them one by one: the same documents, the same mapping.

The loop knows every reference beforehand and writes one INSERT ... ON CONFLICT a document, each its own commit; it records
nothing in id_map. BENCH_BACKFILL_DOCUMENTS is how many documents ours brings over (1,000,000 takes some minutes).
"""

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pymongo
from bson import Decimal128, ObjectId
from psycopg.types.json import Jsonb
from pymongo.database import Database
from sqlalchemy import Engine, text

from benchmarks.measure import Row, compare, exact
from benchmarks.servers import STATE_DIR, BenchmarkDatabase, benchmark_database
from custody.mirror.backfill import backfill
from custody.mirror.backfill.inserting import new_ids, quoted
from custody.mirror.backfill.targets import target_of
from custody.mirror.collections.document import read, to_rows
from custody.store.engine import open_engine
from custody.store.mongo import Document, open_mongo
from workers.embedded import services

DOCUMENTS: Final = int(os.environ.get("BENCH_BACKFILL_DOCUMENTS", "50000"))
FEW: Final = 10_000  # memory is compared between this many and all
SAMPLE: Final = 1_000  # of the loop, and of ours beside it: a few seconds of the loop
USERS: Final = 1_000
RUNS: Final = 5
SMALL_BATCHES: Final = 1_000

Progress = Callable[[str], None]


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as database, _mongo() as mongo:
        progress(f"{DOCUMENTS:,} documents")
        _fill(mongo, DOCUMENTS)
        engine = open_engine(database.admin_url, application="bench-backfill")
        try:
            backfill(engine, mongo, collections=["users"])
            loop = Loop(engine, mongo)
            yield compare(
                area="backfill",
                name=f"payments brought over, {SAMPLE:,} of them a run",
                ours=lambda: _ours(engine, mongo, SAMPLE),
                peer=loop.rate,
                peer_name="INSERT ... ON CONFLICT a document, autocommit",
                unit="documents/s",
                at_least=5,
                runs=RUNS,
                progress=progress,
            )
            progress(f"{DOCUMENTS:,} payments at once")
            _clear(engine)
            few, _ = _in_a_process(database, _part(mongo, FEW).name, FEW)
            _clear(engine)
            many, rate = _in_a_process(database, mongo.name, DOCUMENTS)
            yield exact(
                area="backfill",
                name=f"payments brought over, {DOCUMENTS:,} of them, against the loop's {SAMPLE:,}",
                ours=rate,
                peer=loop.rate(),
                peer_name="the same loop",
                unit="documents/s",
            )
            yield exact(
                area="backfill",
                name=f"peak memory at {DOCUMENTS:,} documents, against {FEW:,}",
                ours=many,
                peer=few,
                peer_name=f"at {FEW:,}",
                unit="MiB",
                at_most=1.5,
            )
        finally:
            engine.dispose()


def _ours(engine: Engine, mongo: Database[Document], count: int) -> float:
    """Documents a second of a backfill of the first ``count`` payments."""
    _clear(engine)
    part = _part(mongo, count)
    started = time.perf_counter()
    (done,) = backfill(engine, part, collections=["payments"])
    taken = time.perf_counter() - started
    if done.documents.inserted != count:
        raise RuntimeError(f"{done.documents.inserted} of {count} documents were brought over")
    return count / taken


def _part(mongo: Database[Document], count: int) -> Database[Document]:
    """The first ``count`` payments in a database of their own."""
    part = mongo.client[f"{mongo.name}_part"]
    if part.payments.estimated_document_count() != count:
        part.payments.drop()
        part.payments.insert_many(mongo.payments.find().sort("_id").limit(count))
    return part


class Loop:
    """The peer. References are known before the clock starts."""

    def __init__(self, engine: Engine, mongo: Database[Document]) -> None:
        self._engine = engine
        self._mongo = mongo
        self._target = target_of("payments")
        with engine.connect() as connection:
            found = connection.execute(text("SELECT legacy_object_id, id FROM public.users")).all()
        self._users: dict[str, UUID] = {row.legacy_object_id: row.id for row in found}

    def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:
        return self._users.get(str(object_id)) if collection == "users" else None

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        return None

    def rate(self) -> float:
        """Documents a second."""
        _clear(self._engine)
        columns = [column.name for column in self._target.columns]
        is_json = {column.name for column in self._target.columns if column.is_json}
        statement = (
            f"INSERT INTO public.payments (id, {', '.join(map(quoted, columns))}) "
            f"VALUES (%s{', %s' * len(columns)}) ON CONFLICT (legacy_object_id) WHERE legacy_object_id IS NOT NULL DO UPDATE "
            f"SET {', '.join(f'{quoted(name)} = excluded.{quoted(name)}' for name in self._target.updatable)}"
        ).encode()
        started = time.perf_counter()
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            driver: Any = connection.connection.driver_connection
            cursor = driver.cursor()
            for raw in self._mongo.payments.find().sort("_id").limit(SAMPLE):
                document = read(self._target.kind, raw)
                made = to_rows(document, self).columns
                values = [Jsonb(made[name]) if name in is_json else made.get(name) for name in columns]
                cursor.execute(statement, (*new_ids([document.id]), *values))
        return SAMPLE / (time.perf_counter() - started)


def _clear(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM public.payments"))
        connection.execute(text("DELETE FROM public.id_map WHERE collection = 'payments'"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE public.payments, public.id_map"))


@contextmanager
def _mongo() -> Generator[Database[Document]]:
    running = services.up(STATE_DIR)
    name = f"bench_{os.getpid()}"
    with open_mongo(running.mongo_url, application="bench-backfill") as client:
        try:
            yield client[name]
        finally:
            client.drop_database(name)
            client.drop_database(f"{name}_part")


def _fill(mongo: Database[Document], count: int) -> None:
    """Users, and payments between them as a backend leaves them: template references, amounts of each spelling, metadata."""
    drawn = random.Random(7)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    users = [ObjectId() for _ in range(USERS)]
    mongo.users.insert_many(
        [{"_id": each, "email": f"{each}@example.org", "createdAt": now, "updatedAt": now} for each in users]
    )
    # Only the load itself: majority writes of a million documents would measure the disk.
    payments = mongo.with_options(write_concern=pymongo.WriteConcern(w=1, j=False)).payments
    for first in range(0, count, SMALL_BATCHES):
        payments.insert_many(
            [
                {
                    "purchaseRequestId": f"template-checkout-{number}",
                    "sellerOfferId": f"template-tc-{number}",
                    "buyerId": drawn.choice(users),
                    "sellerId": drawn.choice(users),
                    "amount": {
                        "amount": drawn.choice([Decimal128(f"{number + 1}.25"), number + 0.5, number + 1]),
                        "currency": "USDT",
                    },
                    "provider": "request.network",
                    "direction": "in",
                    "status": "confirmed",
                    "escrowState": "funded",
                    "blockchain": {"network": "bsc", "chainId": 56, "transactionHash": f"0x{number:064x}"},
                    "providerPaymentId": f"rn-{number}",
                    "metadata": {"transactionSafety": {"lastCheck": {"status": "ok", "at": now}}, "n": number},
                    "createdAt": now,
                    "updatedAt": now,
                    "__v": 0,
                }
                for number in range(first, min(first + SMALL_BATCHES, count))
            ]
        )


def _in_a_process(database: BenchmarkDatabase, mongo_name: str, count: int) -> tuple[float, float]:
    """Peak memory in MiB and documents a second of a backfill in a process of its own."""
    environment = {**os.environ, "BENCH_ADMIN_URL": database.admin_url, "BENCH_MONGO": mongo_name}
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_backfill", str(count)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, rate = made.stdout.split()[-2:]  # log lines stand before them
    return float(peak), float(rate)


def _alone(count: int) -> None:
    running = services.up(STATE_DIR)
    engine = open_engine(os.environ["BENCH_ADMIN_URL"], application="bench-backfill")
    with open_mongo(running.mongo_url, application="bench-backfill") as client:
        mongo = client[os.environ["BENCH_MONGO"]]
        started = time.perf_counter()
        (done,) = backfill(engine, mongo, collections=["payments"])
        taken = time.perf_counter() - started
    engine.dispose()
    assert done.documents.inserted == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, count / taken)


if __name__ == "__main__":
    _alone(int(sys.argv[1]))
