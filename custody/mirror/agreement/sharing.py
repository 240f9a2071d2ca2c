"""Reading and hashing MongoDB's documents in several processes: one of them cannot keep up with Postgres."""

from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Final, Protocol

from custody.mirror.agreement.digests import Range, Records, digest_documents
from custody.mirror.agreement.plan import Plan, plan
from custody.mirror.agreement.reading import snapshot_at
from custody.mirror.collections import COLLECTIONS
from custody.store.mongo import open_mongo

PROCESSES_DEFAULT: Final = 2  # each takes a core; Postgres and MongoDB need some too


class Shared(Protocol):
    """The ranges of one collection, under way."""

    def submit(self, within: Range) -> None:
        """Have it read elsewhere."""
        ...

    def result(self, within: Range) -> Records | None:
        """Its records, once they are there; None where it is the caller's to read."""
        ...


class Sharing(Protocol):
    """Who reads MongoDB."""

    def start(self, of: Plan, moment: Any) -> Shared:
        """One collection, as of a snapshot's moment (None: of a majority, now)."""
        ...


class Alone:
    """The caller reads everything itself."""

    def start(self, of: Plan, moment: Any) -> Shared:
        return self

    def submit(self, within: Range) -> None: ...

    def result(self, within: Range) -> Records | None:
        return None


@dataclass(frozen=True, slots=True)
class _Job:
    """What another process needs to read a collection as this one would."""

    mongo_url: str = field(repr=False)
    database: str
    collection: str
    left_out: frozenset[tuple[str, str]]
    moment: Any


@dataclass(slots=True)
class _Submitted:
    pool: ProcessPoolExecutor
    job: _Job
    futures: dict[Range, Future[Records]] = field(default_factory=dict[Range, Future[Records]])

    def submit(self, within: Range) -> None:
        self.futures[within] = self.pool.submit(_digest, self.job, within)

    def result(self, within: Range) -> Records | None:
        return self.futures[within].result()


@dataclass(slots=True)
class Processes:
    """Processes that each have a client of their own."""

    pool: ProcessPoolExecutor
    mongo_url: str = field(repr=False)
    database: str

    def start(self, of: Plan, moment: Any) -> Shared:
        job = _Job(self.mongo_url, self.database, of.collection, of.columns_left_out, moment)
        return _Submitted(self.pool, job)


@contextmanager
def processes(mongo_url: str, database: str, count: int = PROCESSES_DEFAULT) -> Generator[Processes]:
    """``count`` processes, ended at the end. They are spawned: nothing of this process' connections is in them."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        for _ in range(count):
            pool.submit(_ready)
        yield Processes(pool, mongo_url, database)


def _ready() -> None:
    """Importing takes a second: it is done by the time there is something to read."""


_clients: dict[str, Any] = {}


def _digest(job: _Job, within: Range) -> Records:
    if job.mongo_url not in _clients:
        _clients[job.mongo_url] = open_mongo(job.mongo_url, application="fleet-mirror-verify")
    database = _clients[job.mongo_url][job.database]
    made = plan(COLLECTIONS[job.collection], lambda table, column: (table, column) not in job.left_out)
    with snapshot_at(database, job.moment) as session:
        return digest_documents(database, made, within, session)
