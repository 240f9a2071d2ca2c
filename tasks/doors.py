"""What every task does around its step: the slot of its schedule, bounded rounds, errors said once, the relay woken.

A doorbell carries no facts. Whatever goes wrong here loses nothing: the rows are the truth, and a schedule rings again.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import sentry_sdk
import structlog
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings, settings
from custody.store.engine import open_engine, ring_relay, transaction
from custody.store.lives import pause_after_restore
from custody.store.outbox import Queue
from custody.store.schedule_runs import claim_slot

log = structlog.get_logger(__name__)

ROUNDS_LIMIT: Final = 100
ANSWER_SECONDS: Final = 30.0  # below Celery's soft time limit, so that a long backlog is no timeout
ENGINE_POOL_SIZE: Final = 2  # one task at a time; the second is for waking the relay

Step = Callable[[], int]
"""Claims due rows, moves them on, and returns how many; 0 when nothing more is due."""


class DoorFailed(Exception):
    """A step raised. The cause is in the log and in Sentry; this text goes into Celery's events, and says no more."""


_engines: dict[Queue, Engine] = {}


def engine(queue: Queue) -> Engine:
    """This process's engine, opened on first use: after the fork, never shared by two processes."""
    if queue not in _engines:
        _engines[queue] = open_engine(
            settings().secret("database_url"), application=f"fleet-{queue}", pool_size=ENGINE_POOL_SIZE
        )
    return _engines[queue]


def close_engines() -> None:
    """Close this process's connections to Postgres. Called when a worker process ends."""
    for opened in _engines.values():
        opened.dispose()
    _engines.clear()


class Door:
    """One queue's door. ``build`` makes the step from the engine and the settings, once a process."""

    def __init__(self, queue: Queue, build: Callable[[Engine, FleetSettings], Step]) -> None:
        self.queue: Final[Queue] = queue
        self._build = build
        self._step: Step | None = None
        self._failing: str | None = None

    def answer(self, schedule: str | None, period: int) -> int:
        """Answer one ring: run the step until it finds nothing, at most ROUNDS_LIMIT times or ANSWER_SECONDS.

        ``schedule`` and ``period`` (seconds) are set in a beat's ring only. Returns the rows moved on.
        Raises DoorFailed; rows of rounds that ended before stay committed.
        """
        total = 0
        try:
            if schedule is not None and not self._first_in_slot(schedule, period):
                return 0
            total = self._rounds()
        except Exception as error:
            self._say(error)
            raise DoorFailed(f"{self.queue}: {type(error).__name__}; see the log") from None
        if self._failing is not None:
            log.info("step_recovered", queue=self.queue)
            self._failing = None
        return total

    def _rounds(self) -> int:
        if pause_after_restore(engine(self.queue)):
            log.error("database_restored", queue=self.queue, unblocks="fleet db restored, then fleet chain go-on")
        if self._step is None:
            self._step = self._build(engine(self.queue), settings())
        ends = monotonic() + ANSWER_SECONDS
        total = 0
        try:
            for _ in range(ROUNDS_LIMIT):
                moved = self._step()
                total += moved
                if not moved or monotonic() >= ends:
                    break
        finally:
            if total:
                ring_relay(engine(self.queue))
                log.info("rows_moved_on", queue=self.queue, rows=total)
        return total

    def _first_in_slot(self, schedule: str, period: int) -> bool:
        with transaction(engine(self.queue)) as connection:
            return claim_slot(connection, schedule, period, datetime.now(UTC))

    def _say(self, error: Exception) -> None:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        if kind == self._failing:
            # The same trouble rings again every second: one line each, one traceback and one alarm in all.
            log.warning("step_still_failing", queue=self.queue, error=kind)
            return
        self._failing = kind
        log.error("step_failed", queue=self.queue, error=kind, exc_info=error)
        sentry_sdk.capture_exception(error)
