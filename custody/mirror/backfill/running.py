"""The whole backfill: each collection in order, then the references to rows that came later; it goes on where it was stopped."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import psycopg
from pymongo.database import Database
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.mirror.backfill.applying import apply
from custody.mirror.backfill.later_references import apply_references, read_referring
from custody.mirror.backfill.progress import Progress, Stage, begin, begun, write
from custody.mirror.backfill.reading import Batch, changed_since, read_batch
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.targets import Target, target_of
from custody.mirror.collections import COLLECTIONS
from custody.store.engine import BATCH_ATTEMPTS, attempts, is_retryable, limit_transaction, transaction
from custody.store.mongo import Document
from custody.store.roles import OWNER_ROLE

BATCH: Final = 1_000
"""Documents a transaction: a fraction of a second, and a few megabytes. More gains nothing that can be measured."""

BATCH_MAXIMUM: Final = 10_000  # of small documents some seconds: what is rolled back at worst

LIMITS_MS: Final = {
    "transaction_timeout": 600_000,
    "statement_timeout": 120_000,
    "idle_in_transaction_session_timeout": 60_000,
}
"""A batch takes a second; one in which Postgres refuses hundreds of documents is halved again and again. A process's limits
would end it each time at the same place. Seals of the ledger wait as long."""

_LOCK: Final = 0x666C6565_74626B66  # advisory lock: one backfill of a database at a time

Said = Callable[[Progress], None]


class BackfillRefused(Exception):
    """The backfill does not begin. The message says why."""


@dataclass(slots=True)
class Summary:
    """What was done in one collection. ``unknown``: fields that no mapping knows, and in how many documents."""

    collection: str
    documents: Progress
    references: Progress | None = None
    unknown: Counter[str] = field(default_factory=Counter[str])


def backfill(
    engine: Engine,
    database: Database[Document],
    *,
    collections: Sequence[str] = (),
    since: datetime | None = None,
    batch: int = BATCH,
    said: Said = lambda _: None,
) -> list[Summary]:
    """Bring every document over; ``collections``: only these, else all. Safe to repeat and to stop at any time.

    ``engine`` connects as an administrator who may act for the owner role. Raises BackfillRefused, and PyMongoError or
    DBAPIError when a server does not answer; what was committed stays, and the next run goes on behind it.
    """
    if not 1 <= batch <= BATCH_MAXIMUM:
        raise BackfillRefused(f"batch: expected 1 to {BATCH_MAXIMUM:,} documents, got {batch}")
    chosen = chosen_of(collections)
    resolver = Resolver()
    with _alone(engine):
        with owning(engine) as connection:
            begin(connection, _places(chosen), since)
        summaries = [_documents(engine, database, target_of(name), since, batch, resolver, said) for name in chosen]
        for summary in summaries:
            if target_of(summary.collection).deferred:
                summary.references = _references(engine, database, target_of(summary.collection), since, batch, said)
    return summaries


def _places(chosen: Sequence[str]) -> list[tuple[str, Stage]]:
    documents: list[tuple[str, Stage]] = [(name, "documents") for name in chosen]
    return documents + [(name, "references") for name in chosen if target_of(name).deferred]


def chosen_of(collections: Sequence[str]) -> list[str]:
    """These collections, or all, in the order in which they refer to one another. Raises BackfillRefused."""
    unknown = sorted(set(collections) - set(COLLECTIONS))
    if unknown:
        raise BackfillRefused(f"no collection {', '.join(unknown)}; expected some of {', '.join(COLLECTIONS)}")
    return [name for name in COLLECTIONS if not collections or name in collections]


@contextmanager
def owning(engine: Engine) -> Generator[Connection]:
    """A transaction with the owner's rights and no more, planned for rows that are looked up one by one."""
    with transaction(engine) as connection:
        connection.execute(text(f"SET LOCAL ROLE {OWNER_ROLE}"))
        # A table that was empty a minute ago has no statistics: a whole scan of it may look cheaper than it is.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL jit = off"))
        limit_transaction(connection, LIMITS_MS)
        yield connection


@contextmanager
def _alone(engine: Engine) -> Generator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        if not holder.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar_one():
            raise BackfillRefused("another backfill of this database is running: let it end, or stop it first")
        try:
            yield
        finally:
            if not holder.invalidated:
                holder.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})


def _documents(
    engine: Engine,
    database: Database[Document],
    target: Target,
    since: datetime | None,
    size: int,
    resolver: Resolver,
    said: Said,
) -> Summary:
    with owning(engine) as connection:
        progress = begun(connection, target.collection, "documents")
    unknown = Counter[str]()
    if progress.is_finished:  # by the run that this one goes on with
        return Summary(target.collection, progress)
    condition = changed_since(since)

    def settle(connection: Connection, batch: Batch, read_at: datetime, before: Progress) -> Progress:
        outcome = apply(connection, target, batch.items, resolver, read_at)
        return replace(
            before,
            inserted=before.inserted + outcome.inserted,
            updated=before.updated + outcome.updated,
            refused=before.refused + len(outcome.refused),
            waiting=before.waiting + len(outcome.waiting),
        )

    def read(after: Any) -> Batch:
        return read_batch(database, target.kind, after=after, condition=condition, limit=size)

    for batch, now in _batches(engine, progress, read, settle, resolver, said):
        progress = now
        unknown.update(name for item in batch.items for name in item.unknown)
    return Summary(target.collection, progress, unknown=unknown)


def _references(
    engine: Engine, database: Database[Document], target: Target, since: datetime | None, size: int, said: Said
) -> Progress:
    """The second pass: a reference to the same or a later collection, where it could not be set at first."""
    with owning(engine) as connection:
        progress = begun(connection, target.collection, "references")
        if not progress.is_finished and begun(connection, target.collection, "documents").waiting == 0:
            progress.is_finished = True
            write(connection, progress)
    if progress.is_finished:
        return progress
    resolver = Resolver()

    def settle(connection: Connection, batch: Batch, read_at: datetime, before: Progress) -> Progress:
        outcome = apply_references(connection, target, batch.items, resolver)
        return replace(before, updated=before.updated + outcome.updated, refused=before.refused + outcome.refused)

    def read(after: Any) -> Batch:
        return read_referring(database, target, after=after, condition=changed_since(since), limit=size)

    for _, now in _batches(engine, progress, read, settle, resolver, said):
        progress = now
    return progress


def _batches(
    engine: Engine,
    progress: Progress,
    read: Callable[[Any], Batch],
    settle: Callable[[Connection, Batch, datetime, Progress], Progress],
    resolver: Resolver,
    said: Said,
) -> Iterator[tuple[Batch, Progress]]:
    """Read a batch from MongoDB while the one before is written, each in a transaction of its own with its progress."""
    with ThreadPoolExecutor(1, thread_name_prefix="backfill-read") as reader:
        read_at = _now(engine)
        reading = reader.submit(read, progress.last_id)
        while True:
            batch, batch_read_at = reading.result(), read_at
            if not batch.is_last:
                read_at = _now(engine)
                reading = reader.submit(read, batch.last_id)
            progress = _settle(engine, batch, batch_read_at, progress, settle, resolver)
            said(progress)
            yield batch, progress
            if batch.is_last:
                return


def _settle(
    engine: Engine,
    batch: Batch,
    read_at: datetime,
    before: Progress,
    settle: Callable[[Connection, Batch, datetime, Progress], Progress],
    resolver: Resolver,
) -> Progress:
    for attempt in attempts():
        try:
            with owning(engine) as connection:
                now = settle(connection, batch, read_at, before)
                now = replace(now, last_id=batch.last_id, seen=now.seen + len(batch.items), is_finished=batch.is_last)
                write(connection, now)
            return now
        except (DBAPIError, psycopg.Error) as error:
            resolver.forget()
            if attempt == BATCH_ATTEMPTS or not is_retryable(error):
                raise
    raise AssertionError("attempts() yields at least one")


def _now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        return connection.execute(text("SELECT clock_timestamp()")).scalar_one()
