"""The relay: a process that turns rows of fleet.outbox, and new ledger entries, into doorbells (role fleet_relay).

It wakes on a NOTIFY that is sent after a commit (L16), and polls anyway. First it publishes, then it marks: a crash
between the two rings twice, which is harmless; nothing is ever marked that was not rung.
"""

import signal
import sys
from collections.abc import Iterable, Sequence
from threading import Event
from time import monotonic
from types import FrameType
from typing import Any, Final, Protocol

import psycopg
import structlog
from kombu.connection import Connection as BrokerConnection
from kombu.exceptions import OperationalError
from psycopg import sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.settings.environment import FleetSettings, SettingsError, load_settings
from custody.store.engine import (
    CONNECT_TIMEOUT_SECONDS,
    OUTBOX_CHANNEL,
    forbid_inside_transaction,
    open_engine,
    sqlstate,
    transaction,
)
from custody.store.outbox import ask_for_entries
from workers import health
from workers.celery_app import app
from workers.queues import queue
from workers.telemetry.process import begin

log = structlog.get_logger(__name__)

BATCH_LIMIT: Final = 1_000  # rows a pass; they become at most six messages
MIRROR_RING_AGAIN_SECONDS: Final = 5  # mirror rows stay until applied; they are rung for at most this often
BACKOFF_FIRST_SECONDS: Final = 0.2
BACKOFF_MAXIMUM_SECONDS: Final = 5.0  # the broker is back: doorbells follow within this

_UNRUNG = text("SELECT id, queue FROM fleet.outbox WHERE rung_at IS NULL ORDER BY id LIMIT :limit")
_MIRROR_DUE = text(
    """
    SELECT id, queue FROM fleet.outbox
    WHERE queue = 'mirror' AND run_after <= clock_timestamp()
      AND rung_at < clock_timestamp() - make_interval(secs => :again)
    ORDER BY run_after, id LIMIT :limit
    """
)
_DELETE = text("DELETE FROM fleet.outbox WHERE id = ANY(:ids) AND queue <> 'mirror'")
_MARK = text("UPDATE fleet.outbox SET rung_at = clock_timestamp() WHERE id = ANY(:ids) AND queue = 'mirror'")


class BrokerAway(Exception):
    """The broker took no message. The message names no address, because that holds a password."""


class Bell(Protocol):
    """Rings queues. Raises BrokerAway."""

    def ring(self, names: Iterable[str]) -> None: ...


class CeleryBell:
    """Publishes one doorbell a queue over one connection, opened again after an error."""

    def __init__(self) -> None:
        self._connection: BrokerConnection | None = None
        self._producer: Any = None

    def ring(self, names: Iterable[str]) -> None:
        forbid_inside_transaction("the broker")
        try:
            if self._connection is None:
                self._connection = app.connection_for_write()
                self._producer = app.amqp.Producer(self._connection)
            for name in names:
                spec = queue(name)
                app.send_task(
                    spec.doorbell,
                    queue=spec.name,
                    expires=spec.expires_seconds,
                    ignore_result=True,
                    producer=self._producer,
                    retry=False,
                )
        except (OperationalError, OSError, *_broker_errors()) as error:
            self.close()
            raise BrokerAway(type(error).__name__) from None

    def close(self) -> None:
        """Close the connection to the broker; the next ring opens one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.release()


def _broker_errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError,)


def _distinct(rows: Sequence[Any]) -> list[str]:
    return sorted({row.queue for row in rows})


def relay_once(engine: Engine, bell: Bell, *, limit: int = BATCH_LIMIT) -> int:
    """Ring for at most ``limit`` rows nobody has rung for, then mark them. Returns how many.

    New ledger entries become such rows first. Raises BrokerAway, and the rows stay as they are.
    """
    with transaction(engine) as connection:
        ask_for_entries(connection, limit)
    with transaction(engine) as connection:
        rows = connection.execute(_UNRUNG, {"limit": limit}).all()
    return _ring_and_mark(engine, bell, rows)


def ring_again(engine: Engine, bell: Bell, *, limit: int = BATCH_LIMIT) -> int:
    """Ring for mirror rows that are due and were rung for before. Returns how many. Raises BrokerAway."""
    with transaction(engine) as connection:
        rows = connection.execute(_MIRROR_DUE, {"limit": limit, "again": MIRROR_RING_AGAIN_SECONDS}).all()
    return _ring_and_mark(engine, bell, rows)


def _ring_and_mark(engine: Engine, bell: Bell, rows: Sequence[Any]) -> int:
    if not rows:
        return 0
    bell.ring(_distinct(rows))
    with transaction(engine) as connection:
        mark(connection, [row.id for row in rows])
    return len(rows)


def mark(connection: Connection, ids: list[int]) -> None:
    """Doorbells that were rung go; mirror rows stay until their document is written, with the time of the ring."""
    connection.execute(_DELETE, {"ids": ids})
    connection.execute(_MARK, {"ids": ids})


class Relay:
    """The process's loop. ``stop`` may be set from a signal: it ends after the pass it is in."""

    def __init__(self, settings: FleetSettings) -> None:
        self._url = settings.secret("database_url")
        self._poll = settings.poll_interval_seconds
        self._engine = open_engine(self._url, application="fleet-relay", pool_size=1)
        self._bell = CeleryBell()
        self._listener: psycopg.Connection[Any] | None = None
        self._again_at = 0.0
        self._trouble: str | None = None
        self._pause = BACKOFF_FIRST_SECONDS
        self.stop = Event()

    def run(self) -> None:
        """Relay until ``stop`` is set."""
        log.info("relay_started", poll_seconds=self._poll)
        while not self.stop.is_set():
            try:
                moved = self._pass()
            except BrokerAway as error:
                self._wait("broker_away", str(error), "see whether Valkey runs; the rows stay in fleet.outbox")
                continue
            except (DBAPIError, psycopg.Error) as error:
                self._drop_listener()
                self._wait("database_away", sqlstate(error) or type(error).__name__, "see whether Postgres runs")
                continue
            self._recovered()
            health.alive()
            if moved < BATCH_LIMIT:
                self._sleep()
        self._close()
        log.info("relay_stopped")

    def _pass(self) -> int:
        moved = relay_once(self._engine, self._bell)
        if monotonic() >= self._again_at:
            self._again_at = monotonic() + MIRROR_RING_AGAIN_SECONDS
            moved += ring_again(self._engine, self._bell)
        if moved:
            log.debug("doorbells_rung", rows=moved)
        return moved

    def _sleep(self) -> None:
        """Until a NOTIFY or the poll interval. A lost listener costs a poll, and is opened again."""
        try:
            if self._listener is None:
                self._listener = psycopg.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    application_name="fleet-relay-listen",
                )
                self._listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(OUTBOX_CHANNEL)))
            for _ in self._listener.notifies(timeout=self._poll, stop_after=1):
                pass
        except psycopg.Error:
            self._drop_listener()
            self.stop.wait(self._poll)

    def _wait(self, trouble: str, error: str, unblocks: str) -> None:
        if self._trouble != trouble:
            log.error(trouble, error=error, unblocks=unblocks)
            self._trouble = trouble
        self.stop.wait(self._pause)
        self._pause = min(BACKOFF_MAXIMUM_SECONDS, 2 * self._pause)

    def _recovered(self) -> None:
        if self._trouble is not None:
            log.info("relay_recovered", after=self._trouble)
        self._trouble = None
        self._pause = BACKOFF_FIRST_SECONDS

    def _drop_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _close(self) -> None:
        self._drop_listener()
        self._bell.close()
        self._engine.dispose()


def main() -> None:
    """``python -m workers.relay``. Ends after its pass on SIGTERM or SIGINT."""
    settings = load_settings().require("database_url", "broker_url")
    begin(settings, "relay")
    relay = Relay(settings)

    def end(_number: int, _frame: FrameType | None) -> None:
        relay.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    relay.run()


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
