"""The journal: deliveries are written in groups, and each sender is answered after its group's commit.

One statement writes a batch of rows and, if any is new, one ring for the webhooks queue: one commit for all.
While it runs the next batch gathers, so the more arrives, the more a commit carries.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
import structlog

from custody.providers.delivery import Delivery
from custody.store.engine import OUTBOX_CHANNEL
from workers.ingress.connection import LastingConnection

log = structlog.get_logger(__name__)

FLUSHERS: Final = 2  # one gathers while the other's commit is on its way
BATCH_MAXIMUM_BYTES: Final = 4_194_304  # a batch of the largest bodies still fits the statement's timeout
FLUSH_TIMEOUT_SECONDS: Final = 3.5  # a little over the statement's timeout: for a dead network
RING_INTERVAL_SECONDS: Final = 0.02  # L16: at most one NOTIFY in 20 ms
DRAIN_TIMEOUT_SECONDS: Final = 5.0  # at the end, for what was taken in and is not yet written

_DEADLOCK: Final = "40P01"

# ON CONFLICT without a target and RETURNING without a column need no right to read: the ingress has none.
_INSERT: Final = """
    WITH journalled AS (
        INSERT INTO fleet.webhook_deliveries (provider, delivery_key, body_sha256, headers, body, is_test)
        SELECT provider, delivery_key, body_sha256, headers::jsonb, body, is_test
        FROM unnest(%(providers)s::text[], %(keys)s::text[], %(digests)s::bytea[], %(headers)s::text[],
            %(bodies)s::bytea[], %(tests)s::boolean[])
            AS given (provider, delivery_key, body_sha256, headers, body, is_test)
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    INSERT INTO fleet.outbox (queue) SELECT 'webhooks' WHERE EXISTS (SELECT FROM journalled)
"""
_NOTIFY: Final = "SELECT pg_notify(%s, '')"


class JournalFull(Exception):
    """More deliveries wait than the journal may hold: the sender must try again."""


class NotJournalled(Exception):
    """The delivery was not written: the sender must try again."""


@dataclass(frozen=True, slots=True)
class _Entry:
    delivery: Delivery
    written: asyncio.Future[None]


class Journal:
    """Takes deliveries from many requests and writes them with a few connections."""

    def __init__(self, url: str, *, queue_limit: int, batch_limit: int) -> None:
        """``url``: the ingress' own role. ``queue_limit``, ``batch_limit``: deliveries."""
        self._url = url
        self._batch_limit = batch_limit
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue(queue_limit)
        self._new = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def write(self, delivery: Delivery) -> None:
        """Return once the delivery is durable: its row is committed, now or by an earlier delivery of it.

        Raises JournalFull at once, or NotJournalled. Cancelled, it may be written all the same.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Entry(delivery, written))
        except asyncio.QueueFull:
            raise JournalFull from None
        await written

    def start(self) -> None:
        """Start the flushers and the bell, in the running event loop."""
        self._tasks = [asyncio.create_task(self._flush_forever(n), name=f"flusher-{n}") for n in range(FLUSHERS)]
        self._tasks.append(asyncio.create_task(self._ring_forever(), name="bell"))

    async def stop(self) -> None:
        """Write what waits, for a bounded time, and close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                await self._queue.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _flush_forever(self, number: int) -> None:
        connection = LastingConnection(self._url, f"fleet-ingress-{number}")
        try:
            while True:
                batch = await self._gather()
                try:
                    await self._flush(connection, batch)
                except Exception:
                    # A flusher that ends would leave every later delivery to its deadline.
                    log.exception("journal_failed", rows=len(batch))
                finally:
                    for entry in batch:
                        self._queue.task_done()
                        _answer(entry, written=False)  # only those that nothing has answered yet
        finally:
            await connection.close()

    async def _gather(self) -> list[_Entry]:
        """At least one entry, and what else waits, up to the batch's bounds."""
        batch = [await self._queue.get()]
        size = len(batch[0].delivery.body)
        while len(batch) < self._batch_limit and size < BATCH_MAXIMUM_BYTES and not self._queue.empty():
            batch.append(self._queue.get_nowait())
            size += len(batch[-1].delivery.body)
        # Two flushers that write the same keys in the same order wait for each other but cannot deadlock.
        batch.sort(key=lambda entry: (entry.delivery.provider, entry.delivery.key, entry.delivery.body_sha256))
        return batch

    async def _flush(self, connection: LastingConnection, batch: Sequence[_Entry]) -> None:
        """Write a batch and answer it. A batch that the database refuses is written row by row."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                if await self._write_batch(connection, batch):
                    return
            for entry in batch:
                async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                    await self._write_batch(connection, [entry])
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.error("journal_away", error=type(error).__name__, sqlstate=_sqlstate(error), rows=len(batch))
            await connection.close()

    async def _write_batch(self, connection: LastingConnection, batch: Sequence[_Entry]) -> bool:
        """Whether the batch was committed; False if the database refused its content.

        Raises psycopg.Error, OSError or TimeoutError if the database itself is the trouble.
        """
        deliveries = [entry.delivery for entry in batch]
        try:
            cursor = await (await connection.get()).execute(
                _INSERT,
                {
                    "providers": [delivery.provider for delivery in deliveries],
                    "keys": [delivery.key for delivery in deliveries],
                    "digests": [delivery.body_sha256 for delivery in deliveries],
                    "headers": [delivery.headers for delivery in deliveries],
                    "bodies": [delivery.body for delivery in deliveries],
                    "tests": [delivery.is_test for delivery in deliveries],
                },
            )
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and error.sqlstate != _DEADLOCK:
                raise
            log.error("journal_refused", rows=len(batch), error=type(error).__name__, sqlstate=error.sqlstate)
            return False
        if cursor.rowcount:
            self._new.set()
        for entry in batch:
            _answer(entry, written=True)
        return True

    async def _ring_forever(self) -> None:
        """Wake the relay after commits. Best effort: it polls anyway (L16)."""
        connection = LastingConnection(self._url, "fleet-ingress-bell")
        try:
            while True:
                await self._new.wait()
                self._new.clear()
                try:
                    async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                        await (await connection.get()).execute(_NOTIFY, (OUTBOX_CHANNEL,))
                except (psycopg.Error, OSError, TimeoutError) as error:
                    log.debug("relay_not_woken", error=type(error).__name__)
                    await connection.close()
                await asyncio.sleep(RING_INTERVAL_SECONDS)
        finally:
            await connection.close()


def _answer(entry: _Entry, *, written: bool) -> None:
    """Tell the waiting request, if it still waits."""
    if entry.written.done():
        return
    if written:
        entry.written.set_result(None)
    else:
        entry.written.set_exception(NotJournalled())


def _sqlstate(error: BaseException) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else None
