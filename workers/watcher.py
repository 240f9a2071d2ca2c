"""The watcher: the process that says what the chains hold (role fleet_watcher).

One thread a chain. It scans new blocks about once a second, with one batched request a node, and answers due looks as
soon as they are there. A chain has one watcher at a time (L12), whoever holds its lock; a second one waits for it, and
one that lost the lock while it stalled is fenced off.
"""

import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from types import FrameType
from typing import Any, Final

import psycopg
import sentry_sdk
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from custody.chain import ChainClient, ChainError, connections
from custody.chain.fence import Fence, Fenced
from custody.chain.house_funding import book_funding
from custody.chain.looks import due_looks
from custody.chain.native_reconciliation import reconcile_native
from custody.chain.node_panel import NodePanel
from custody.chain.outflows import watch_treasury
from custody.chain.watching import BlockWatch
from custody.settings.chains import Chain, load_chains
from custody.settings.environment import FleetSettings, SettingsError, load_settings
from custody.store.engine import (
    CONNECT_TIMEOUT_SECONDS,
    STATEMENT_TIMEOUT_MS,
    open_engine,
    sqlstate,
    transaction,
)
from custody.store.lives import pause_after_restore
from workers import health
from workers.telemetry.logging import configure_logging
from workers.telemetry.sentry import init_sentry

log = structlog.get_logger(__name__)

HEAD_SECONDS: Final = 1.0  # a new block is noticed within this; the fastest chain of the fleet makes four a second
HOUSE_SECONDS: Final = 5.0  # house accounts are funded by people, seldom
LEASE_SECONDS: Final = 1.0  # how soon a waiting watcher notices that the other one is gone
BACKOFF_FIRST_SECONDS: Final = 0.5
BACKOFF_MAXIMUM_SECONDS: Final = 15.0  # the node is back: its chain is watched again within this


class LeaseLost(Exception):
    """The session that held the chain's lock is gone; another watcher may hold it now."""


class ChainLease:
    """A chain's advisory lock on a session of its own, outside any transaction (L15). Ends with the session."""

    def __init__(self, database_url: str, chain_id: int) -> None:
        self._url = database_url
        self._name = f"fleet.watcher:{chain_id}"
        self._session: psycopg.Connection[Any] | None = None

    def acquire(self, stop: threading.Event) -> bool:
        """Wait for the lock; False if ``stop`` was set first. Raises psycopg.Error when Postgres is away."""
        self.release()
        self._session = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="fleet-watcher-lease",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            tcp_user_timeout=STATEMENT_TIMEOUT_MS,
        )
        waited = False
        while True:
            row = self._session.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [self._name]).fetchone()
            if row is not None and row[0]:
                return True
            if not waited:
                log.info("another_watcher_runs", lock=self._name)
                waited = True
            if stop.wait(LEASE_SECONDS):
                return False

    def require(self) -> None:
        """Raises LeaseLost when the session is gone."""
        try:
            if self._session is not None:
                self._session.execute("SELECT 1")
                return
        except psycopg.Error as error:
            raise LeaseLost(type(error).__name__) from None
        raise LeaseLost("no session")

    def release(self) -> None:
        """Close the session, and with it the lock."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class ChainWatch:
    """The loop of one chain. Whatever goes wrong is said once, and tried again."""

    def __init__(self, chain: Chain, engine: Engine, lease: ChainLease, settings: FleetSettings) -> None:
        self.chain = chain
        self._engine = engine
        self._lease = lease
        self._poll = settings.poll_interval_seconds
        self._limit = settings.claim_limit
        # A node that fails is put aside and another one asked: repeating the question here would only cost time.
        self._connections = [replace(each, read_attempts=1) for each in connections(chain)]
        self._watch: BlockWatch | None = None
        self._head_at = 0.0
        self._house_at = 0.0
        self._trouble: str | None = None
        self._pause = BACKOFF_FIRST_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Watch until ``stop`` is set."""
        try:
            while not stop.is_set():
                if self._guarded(lambda: self._lease.acquire(stop), stop):
                    log.info("watching", chain_id=self.chain.id, chain=self.chain.name)
                    pause_after_restore(self._engine)
                    self._watch_until(stop)
        finally:
            self._lease.release()
            self._end_watch()

    def _watch_until(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._lease.require()
                if self._guarded(self.tick, stop):
                    health.alive()
                    stop.wait(self._poll)
        except (LeaseLost, Fenced) as error:
            log.warning("watcher_lease_lost", chain_id=self.chain.id, error=str(error))
        finally:
            self._end_watch()

    def tick(self) -> bool:
        """Read what is due now. True always; raises what its parts raise."""
        watch = self._open_watch()
        now = monotonic()
        if now >= self._head_at or self._has_due_looks():
            self._head_at = now + HEAD_SECONDS
            if watch.tick(self._limit) == self._limit:
                self._head_at = now  # more may be due
        if now >= self._house_at:
            self._house_at = now + HOUSE_SECONDS
            reader = watch.quorum_reader()
            if reader is not None:
                head = reader.head()
                book_funding(self._engine, reader, self.chain, watch.fence, head)
                reconcile_native(self._engine, reader, self.chain, watch.fence, head)
        return True

    def _has_due_looks(self) -> bool:
        with transaction(self._engine) as connection:
            return bool(due_looks(connection, self.chain.id, 1))

    def _open_watch(self) -> BlockWatch:
        if self._watch is None:
            fence = Fence.take(self._engine, self.chain.id)
            panel = NodePanel(self.chain, [ChainClient(each) for each in self._connections])
            self._watch = BlockWatch(self._engine, self.chain, panel, fence, watch_treasury)
        return self._watch

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.panel.close()

    def _guarded(self, step: Callable[[], bool], stop: threading.Event) -> bool:
        """The step's answer; False after a failure, which was said and waited for. Raises Fenced."""
        try:
            done = step()
        except Fenced:
            raise
        except ChainError as error:
            self._wait(stop, "nodes_away", str(error), "see whether the nodes run and are of this chain")
        except (DBAPIError, psycopg.Error) as error:
            self._wait(stop, "database_away", sqlstate(error) or type(error).__name__, "see whether Postgres runs")
        except Exception as error:
            sentry_sdk.capture_exception(error)
            log.exception("watch_failed", chain_id=self.chain.id)
            self._wait(stop, "watch_failed", type(error).__name__, "see the traceback above")
        else:
            if self._trouble is not None:
                log.info("watch_recovered", chain_id=self.chain.id, after=self._trouble)
            self._trouble = None
            self._pause = BACKOFF_FIRST_SECONDS
            return done
        return False

    def _wait(self, stop: threading.Event, trouble: str, error: str, unblocks: str) -> None:
        if self._trouble != trouble:
            log.error(trouble, chain_id=self.chain.id, error=error, unblocks=unblocks)
            self._trouble = trouble
        stop.wait(self._pause)
        self._pause = min(BACKOFF_MAXIMUM_SECONDS, 2 * self._pause)


class Watcher:
    """All chains of the chains file, one thread each. ``stop`` may be set from a signal."""

    def __init__(self, settings: FleetSettings) -> None:
        url = settings.secret("database_url")
        chains = load_chains(settings.path("chains_file")).chains
        self._engine = open_engine(url, application="fleet-watcher", pool_size=len(chains))
        self._watches = [ChainWatch(chain, self._engine, ChainLease(url, chain.id), settings) for chain in chains]
        self.stop = threading.Event()

    def run(self) -> None:
        """Watch until ``stop`` is set and every thread has ended its pass."""
        threads = [
            threading.Thread(target=watch.run, args=[self.stop], name=f"watch-{watch.chain.id}")
            for watch in self._watches
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._engine.dispose()
        log.info("watcher_stopped")


def main() -> None:
    """``python -m workers.watcher``. Ends after its pass on SIGTERM or SIGINT."""
    settings = load_settings().require("database_url", "chains_file")
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    init_sentry(settings, process="watcher")
    health.name_process("watcher")
    watcher = Watcher(settings)

    def end(_number: int, _frame: FrameType | None) -> None:
        watcher.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    watcher.run()


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
