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


@dataclass(slots=True)
class _Submitted:
    pool: ProcessPoolExecutor
    arguments: tuple[Any, ...]
    futures: dict[Range, Future[Records]] = field(default_factory=dict[Range, Future[Records]])

    def submit(self, within: Range) -> None:
        self.futures[within] = self.pool.submit(_digest, *self.arguments, within)

    def result(self, within: Range) -> Records | None:
        return self.futures[within].result()


@dataclass(slots=True)
class Processes:
    """Processes that each have a client of their own."""

    pool: ProcessPoolExecutor
    mongo_url: str
    database: str

    def start(self, of: Plan, moment: Any) -> Shared:
        return _Submitted(
            self.pool, (self.mongo_url, self.database, of.collection, frozenset(of.columns_left_out), moment)
        )


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


def _digest(
    mongo_url: str, name: str, collection: str, left_out: frozenset[tuple[str, str]], moment: Any, within: Range
) -> Records:
    if mongo_url not in _clients:
        _clients[mongo_url] = open_mongo(mongo_url, application="fleet-mirror-verify")
    database = _clients[mongo_url][name]
    made = plan(COLLECTIONS[collection], lambda table, column: (table, column) not in left_out)
    with snapshot_at(database, moment) as session:
        return digest_documents(database, made, within, session)
