"""The sealer: a process that signs a Merkle root over each finished window of the ledger (role fleet_sealer).

It alone has the signing key. Appends never wait for it; a long writer only delays it, and after SEAL_LAG_ALARM_SECONDS
it says so (L15).
"""

import signal
import sys
from datetime import UTC, datetime, timedelta
from threading import Event
from types import FrameType
from typing import Final

import sentry_sdk
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from custody.ledger.seal_keys import SealKey, load_seal_key
from custody.ledger.seal_lag import report_lag, resolve_lag, seal_lag
from custody.ledger.seals import Seal, SealsAhead, seal_next
from custody.settings.environment import FleetSettings, SettingsError, load_settings
from custody.store.engine import open_engine, sqlstate, transaction
from workers import health
from workers.telemetry.process import begin

log = structlog.get_logger(__name__)

ROUNDS_MAXIMUM: Final = 100  # seals of one pass: a backlog is worked off without forgetting to look at the clock
BACKOFF_MAXIMUM_SECONDS: Final = 5.0  # the database is back: seals follow within this


def seal_once(engine: Engine, key: SealKey) -> Seal | None:
    """Seal the next window in a transaction of its own. Raises SealsAhead."""
    with transaction(engine) as connection:
        seal = seal_next(connection, key)
    if seal is not None:
        log.info(
            "ledger_sealed",
            seal_no=seal.seal_no,
            entries=seal.entries,
            to_tx=seal.to_tx,
            seal_hash=seal.seal_hash.hex(),
        )
    return seal


class Sealer:
    """The process's loop. ``stop`` may be set from a signal: it ends after the pass it is in."""

    def __init__(self, settings: FleetSettings) -> None:
        self._key = load_seal_key(settings.path("ledger_seal_key_file"))
        self._interval = settings.ledger_seal_interval_seconds
        self._engine = open_engine(settings.secret("database_url"), application="fleet-sealer", pool_size=1)
        self._late: bool | None = None  # not known: an alarm of before a restart may still stand
        self._trouble: str | None = None
        self._pause = self._interval
        self.stop = Event()

    def run(self) -> None:
        """Seal until ``stop`` is set."""
        log.info("sealer_started", interval_seconds=self._interval, key_id=self._key.id)
        while not self.stop.is_set():
            try:
                self.one_pass(datetime.now(UTC))
            except (DBAPIError, SealsAhead) as error:
                self._wait(error)
                continue
            if self._trouble is not None:
                log.info("sealer_recovered", after=self._trouble)
            self._trouble, self._pause = None, self._interval
            health.alive()
            self.stop.wait(self._interval)
        self.close()
        log.info("sealer_stopped")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def one_pass(self, now: datetime) -> int:
        """Seal what has finished, then see whether something waits too long. Returns the number of seals."""
        sealed = 0
        while sealed < ROUNDS_MAXIMUM and not self.stop.is_set() and seal_once(self._engine, self._key) is not None:
            sealed += 1
        with transaction(self._engine) as connection:
            late = seal_lag(connection, now)
            if late is None and self._late is not False:
                resolve_lag(connection)
            elif late is not None and not self._late:
                report_lag(connection, late, now)
        if late is not None and not self._late:
            self._alarm(late)
        elif late is None and self._late:
            log.info("ledger_sealed_again")
        self._late = late is not None
        return sealed

    def _alarm(self, late: timedelta) -> None:
        log.error(
            "ledger_not_sealed",
            lag_seconds=int(late.total_seconds()),
            unblocks="end the oldest transaction: SELECT pid, usename, application_name, xact_start FROM "
            "pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start",
        )
        sentry_sdk.capture_message("the ledger is not being sealed", level="error")

    def _wait(self, error: DBAPIError | SealsAhead) -> None:
        trouble = "seals_ahead" if isinstance(error, SealsAhead) else "database_away"
        if self._trouble != trouble:
            detail = str(error) if isinstance(error, SealsAhead) else sqlstate(error) or type(error).__name__
            log.error(trouble, error=detail, unblocks="see whether Postgres runs, and is the one that was sealed")
            sentry_sdk.capture_message(f"sealer: {trouble}", level="error")
            self._trouble = trouble
        self.stop.wait(self._pause)
        self._pause = min(BACKOFF_MAXIMUM_SECONDS, 2 * self._pause)


def main() -> None:
    """``python -m workers.sealer``. Ends after its pass on SIGTERM or SIGINT."""
    settings = load_settings().require("database_url", "ledger_seal_key_file")
    begin(settings, "sealer")
    sealer = Sealer(settings)

    def end(_number: int, _frame: FrameType | None) -> None:
        sealer.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    sealer.run()


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
