"""How long a write of one store takes to be in the other, at 200 writes a second: each direction alone, then both at once,
which is twice as many.

Follower, relay and mirror run as processes, as `fleet up` starts them. A write is timed from before it is sent until another
connection sees it in the other store; a later write of the same document that is seen counts for the earlier one as well.
BENCH_MIRROR_LAG_SECONDS and BENCH_MIRROR_LAG_RATE change how long and how fast it writes.
"""

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final
from uuid import UUID

from bson import Decimal128, ObjectId
from pymongo.database import Database
from sqlalchemy import Engine, text

from benchmarks.holding_latency import percentile
from benchmarks.measure import Row, exact
from benchmarks.servers import READY_SECONDS, STATE_DIR, BenchmarkDatabase, benchmark_database, started_processes
from custody.mirror.backfill import backfill
from custody.store.engine import open_engine, ring_relay, transaction
from custody.store.mongo import Document, open_mongo
from custody.store.outbox import mirror
from workers.embedded import services
from workers.processes import ProcessContext

SECONDS: Final = float(os.environ.get("BENCH_MIRROR_LAG_SECONDS", "30"))
RATE: Final = int(os.environ.get("BENCH_MIRROR_LAG_RATE", "200"))
PAYMENTS: Final = 2_000
WRITERS: Final = 4  # each direction: a majority's journal takes some milliseconds a write
LOOK_SECONDS: Final = 0.05  # how exact the figures are; looking costs both stores a scan
LATE_SECONDS: Final = 60.0  # what is not there by then is no figure but a failure
GOAL_SECONDS: Final = 2.0
PROCESSES: Final = ("follower", "relay", "worker-mirror")

Progress = Callable[[str], None]

_SEEN_IN_POSTGRES: Final = text(
    "SELECT legacy_object_id, (metadata ->> 'n')::int AS n FROM public.payments WHERE (metadata ->> 'n')::int > :seen"
)
_CONFIRMED: Final = text("UPDATE public.payments SET confirmations = :n, updated_at = clock_timestamp() WHERE id = :id")


def rows(progress: Progress) -> Iterable[Row]:
    with benchmark_database() as database, _mongo() as mongo, tempfile.TemporaryDirectory() as folder:
        progress(f"{PAYMENTS:,} payments")
        _fill(mongo)
        admin = open_engine(database.admin_url, application="bench-mirror-lag", pool_size=WRITERS + 1)
        try:
            backfill(admin, mongo, collections=["users", "payments"])
            with _processes(database, mongo.name, Path(folder)):
                _wait_until_followed(admin)
                there, back = _ToPostgres(admin, mongo), _ToMongo(admin, mongo)
                runs = [([there], "alone"), ([back], "alone"), ([there, back], "with the other way at once")]
                found = [(how, *each) for ways, how in runs for each in _run(ways, progress)]
        finally:
            admin.dispose()
    for how, way, lags in found:
        name = f"{way} {how}, {RATE} writes/s for {SECONDS:g} s, {len(lags):,} writes"
        yield exact(
            area="mirror lag", name=f"{name}: p50", ours=percentile(lags, 50), peer=GOAL_SECONDS,
            peer_name="the goal of p99", unit="s",
        )  # fmt: skip
        yield exact(
            area="mirror lag", name=f"{name}: p99", ours=percentile(lags, 99), peer=GOAL_SECONDS,
            peer_name="the goal", unit="s", at_most=1,
        )  # fmt: skip


class _Direction(ABC):
    """Writes into one store, each with a number of its own, and what the other has of them."""

    name = ""

    def __init__(self, admin: Engine, mongo: Database[Document]) -> None:
        self.admin = admin
        self.mongo = mongo
        with admin.connect() as connection:
            found = connection.exec_driver_sql("SELECT id, legacy_object_id FROM public.payments ORDER BY id").all()
        self.ids: list[tuple[UUID, str]] = [(row.id, row.legacy_object_id) for row in found]
        self.lags: list[float] = []
        self._open: dict[str, list[tuple[int, float]]] = {}
        self._lock = threading.Lock()
        self._next = 0
        self.errors: list[BaseException] = []

    def write_until(self, end: float) -> None:
        try:
            due = monotonic()
            while due < end:
                sleep(max(0.0, due - monotonic()))
                with self._lock:
                    self._next += 1
                    number = self._next
                    row_id, object_id = self.ids[number * 7919 % len(self.ids)]
                    self._open.setdefault(object_id, []).append((number, monotonic()))
                self.write(row_id, object_id, number)
                due += WRITERS / RATE
        except BaseException as error:
            self.errors.append(error)
            raise

    def look(self) -> None:
        """See what is there now."""
        found = self.seen()
        now = monotonic()
        with self._lock:
            for object_id, number in found:
                left: list[tuple[int, float]] = []
                for each, at in self._open.get(object_id, []):
                    if each <= number:
                        self.lags.append(now - at)
                    else:
                        left.append((each, at))
                self._open[object_id] = left

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(map(len, self._open.values()))

    def take(self) -> list[float]:
        """The seconds of each write that was seen since the last time."""
        taken, self.lags = self.lags, []
        return taken

    @abstractmethod
    def write(self, row_id: UUID, object_id: str, number: int) -> None:
        """Change one document or row, so that it carries this number."""

    @abstractmethod
    def seen(self) -> list[tuple[str, int]]:
        """The other store's documents or rows of numbers above ``oldest``: (ObjectId, number) each."""

    @property
    def oldest(self) -> int:
        """All of a lower number is seen."""
        with self._lock:
            return min((each for waiting in self._open.values() for each, _ in waiting), default=self._next + 1) - 1


class _ToPostgres(_Direction):
    name = "MongoDB to Postgres"

    def write(self, row_id: UUID, object_id: str, number: int) -> None:
        change = {"metadata": {"n": number}, "updatedAt": datetime.now(UTC)}
        self.mongo["payments"].update_one({"_id": ObjectId(object_id)}, {"$set": change})

    def seen(self) -> list[tuple[str, int]]:
        with self.admin.connect() as connection:
            found = connection.execute(_SEEN_IN_POSTGRES, {"seen": self.oldest}).all()
        return [(row.legacy_object_id, row.n) for row in found]


class _ToMongo(_Direction):
    name = "Postgres to MongoDB"

    def write(self, row_id: UUID, object_id: str, number: int) -> None:
        with transaction(self.admin) as connection:
            connection.execute(_CONFIRMED, {"n": number, "id": row_id})
            mirror(connection, "payments", row_id)
        if number % WRITERS == 0:
            ring_relay(self.admin)  # as the workers do after a batch; the relay polls anyway

    def seen(self) -> list[tuple[str, int]]:
        found = self.mongo["payments"].find(
            {"blockchain.confirmations": {"$gt": self.oldest}}, {"blockchain.confirmations": 1}
        )
        return [(str(each["_id"]), each["blockchain"]["confirmations"]) for each in found]


def _run(ways: Sequence[_Direction], progress: Progress) -> list[tuple[str, list[float]]]:
    """Write in these directions at once; (name, seconds of each write) of each. Raises RuntimeError when one comes too late."""
    end = monotonic() + SECONDS
    writers = [threading.Thread(target=each.write_until, args=(end,)) for each in ways for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers) or any(each.waiting for each in ways):
        if monotonic() > end + LATE_SECONDS:
            raise RuntimeError(f"{[each.waiting for each in ways]} writes are not in the other store")
        for each in ways:
            each.look()
        progress("; ".join(f"{each.name}: {len(each.lags):,} seen, {each.waiting} on their way" for each in ways))
        sleep(LOOK_SECONDS)
    for writer in writers:
        writer.join()
    for each in ways:
        if each.errors:
            raise each.errors[0]
        if len(each.lags) < SECONDS * RATE * 0.95:
            raise RuntimeError(f"{each.name}: {len(each.lags)} writes, expected {SECONDS * RATE:g}")
    return [(each.name, each.take()) for each in ways]


def _wait_until_followed(admin: Engine) -> None:
    ends = monotonic() + READY_SECONDS
    while True:
        with admin.connect() as connection:
            found = connection.exec_driver_sql("SELECT caught_up FROM fleet.mirror_following WHERE name = '*'").scalar()
        if found:
            return
        if monotonic() > ends:
            raise RuntimeError(f"the follower has followed nothing within {READY_SECONDS:g} s")
        sleep(LOOK_SECONDS)


@contextmanager
def _mongo() -> Generator[Database[Document]]:
    running = services.up(STATE_DIR)
    name = f"bench_{os.getpid()}"
    with open_mongo(running.mongo_url, application="bench-mirror-lag") as client:
        try:
            yield client[name]
        finally:
            client.drop_database(name)


def _fill(mongo: Database[Document]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    users = [ObjectId() for _ in range(50)]
    mongo["users"].insert_many(
        [{"_id": each, "email": f"{each}@example.org", "createdAt": now, "updatedAt": now} for each in users]
    )
    payments: list[dict[str, Any]] = [
        {
            "purchaseRequestId": f"template-checkout-{number}", "sellerOfferId": f"template-tc-{number}",
            "buyerId": users[number % 50], "sellerId": users[number * 7 % 50],
            "amount": {"amount": Decimal128(f"{number + 1}.25"), "currency": "USDT"}, "provider": "request.network",
            "direction": "in", "status": "processing", "blockchain": {"network": "bsc", "chainId": 56},
            "providerPaymentId": f"rn-{number}", "metadata": {}, "createdAt": now, "updatedAt": now,
        }
        for number in range(PAYMENTS)
    ]  # fmt: skip
    mongo["payments"].insert_many(payments)


@contextmanager
def _processes(database: BenchmarkDatabase, mongo_name: str, folder: Path) -> Generator[None]:
    running = services.up(STATE_DIR)
    context = ProcessContext(
        state_dir=folder,
        settings={
            "BROKER_URL": running.broker_url, "MONGO_URL": running.mongo_url, "MONGO_DATABASE": mongo_name,
            "LOG_LEVEL": "warning",
        },
        database_url=database.url,
    )  # fmt: skip
    with started_processes(PROCESSES, context):
        yield
