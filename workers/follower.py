"""The follower: a process that brings what the backend writes to MongoDB to Postgres (role fleet_follower).

It waits for MongoDB's next changes and commits them with their place. Whatever goes wrong is said once, and tried again from
the place that is committed: nothing is lost, and what comes twice changes nothing.
"""

import signal
import sys
from datetime import UTC, datetime
from threading import Event
from time import monotonic
from types import FrameType
from typing import Final

import psycopg
import structlog
from pymongo.errors import PyMongoError
from sqlalchemy.exc import DBAPIError

from custody.mirror.following import Follower, lag_seconds
from custody.settings.environment import FleetSettings, SettingsError, load_settings
from custody.store.engine import open_engine, sqlstate
from custody.store.lives import pause_after_restore
from custody.store.mongo import is_away, open_mongo
from workers import health
from workers.telemetry.process import begin

log = structlog.get_logger(__name__)

BACKOFF_FIRST_SECONDS: Final = 0.2
BACKOFF_MAXIMUM_SECONDS: Final = 5.0  # a store is back: what it missed follows within this
SAY_SECONDS: Final = 1.0  # `fleet status` is read by people


class FollowerProcess:
    """The process's loop. ``stop`` may be set from a signal: it ends after the batch it is in."""

    def __init__(self, settings: FleetSettings) -> None:
        self._engine = open_engine(settings.secret("database_url"), application="fleet-follower", pool_size=1)
        self._client = open_mongo(settings.secret("mongo_url"), application="fleet-follower")
        self._follower = Follower(self._engine, self._client[settings.mongo_database], alive=self._alive)
        self._trouble: str | None = None
        self._pause = BACKOFF_FIRST_SECONDS
        self._is_looked_at = False
        self._said_at = -SAY_SECONDS
        self.stop = Event()

    def run(self) -> None:
        """Follow until ``stop`` is set."""
        log.info("follower_started")
        while not self.stop.is_set():
            try:
                if not self._is_looked_at:
                    pause_after_restore(self._engine)
                    self._is_looked_at = True
                wait = self._follower.step()
            except PyMongoError as error:
                trouble = "mongo_away" if is_away(error) else "mongo_refused"
                said = f"{type(error).__name__}: {str(error).partition(',')[0][:200]}"
                self._wait(trouble, said, "see whether MongoDB has a primary; what changed meanwhile stays in its log")
            except (DBAPIError, psycopg.Error) as error:
                self._is_looked_at = False
                self._wait("database_away", sqlstate(error) or type(error).__name__, "see whether Postgres runs")
            else:
                self._recovered()
                if wait:
                    self.stop.wait(wait)
        self._follower.reset()
        self._client.close()
        self._engine.dispose()
        log.info("follower_stopped")

    def _alive(self) -> None:
        if monotonic() < self._said_at + SAY_SECONDS:
            return
        self._said_at = monotonic()
        position = self._follower.position
        health.alive(
            "" if position is None else f"{position.mode}, {lag_seconds(position, datetime.now(UTC)):.1f} s behind"
        )

    def _wait(self, trouble: str, error: str, unblocks: str) -> None:
        if self._trouble != trouble:
            log.error(trouble, error=error, unblocks=unblocks)
            self._trouble = trouble
        self._follower.reset()
        self.stop.wait(self._pause)
        self._pause = min(BACKOFF_MAXIMUM_SECONDS, 2 * self._pause)

    def _recovered(self) -> None:
        if self._trouble is not None:
            log.info("follower_recovered", after=self._trouble)
        self._trouble = None
        self._pause = BACKOFF_FIRST_SECONDS


def main() -> None:
    """``python -m workers.follower``. Ends after its batch on SIGTERM or SIGINT."""
    settings = load_settings().require("database_url", "mongo_url")
    begin(settings, "follower")
    process = FollowerProcess(settings)

    def end(_number: int, _frame: FrameType | None) -> None:
        process.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    process.run()


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
