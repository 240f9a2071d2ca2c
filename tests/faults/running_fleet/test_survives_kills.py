"""Neither kill -9 of each worker, the relay, beat and Valkey nor the silence of every webhook changes the result."""

import os
import signal
from collections import Counter

import pytest
from sqlalchemy import text

from custody.store.engine import open_engine
from tests.counts import ONLY_LONG, Counts, declared
from workers.demo.fleet import DevelopmentFleet
from workers.demo.run import Demo
from workers.demo.stages import Pace
from workers.embedded import supervision
from workers.embedded.state_folder import StateFolder
from workers.queues import QUEUES

PAYMENTS = declared(50, 4)
WORKERS = tuple(f"worker-{queue.name}" for queue in QUEUES)
NINE = (*WORKERS, "relay", "beat", "valkey")

# Each is killed at the moment when it has something to lose: (stage, how many payments reached it) -> who dies.
MOMENTS: dict[tuple[str, int], tuple[str, ...]] = {
    ("opened", PAYMENTS): ("worker-housekeeping",),
    ("paid", PAYMENTS): ("beat",),
    ("announced", 3): ("worker-webhooks",),
    ("announced", PAYMENTS): ("relay",),
    ("detected", 1): ("worker-confirmations", "watcher"),
    ("held", 1): ("valkey",),
    ("held", PAYMENTS): ("worker-sweeps", "keys-agent"),
    ("swept", 1): ("worker-mirror",),
    ("signed", 2): ("worker-releases",),
}


class Killer:
    """Kills each process once, when the demo reports its moment; the supervisor starts it again."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._waiting = dict(MOMENTS)
        self.killed: dict[str, int] = {}

    def report(self, stage: str, count: int) -> None:
        for moment in [key for key in self._waiting if key[0] == stage and count >= key[1]]:
            for name in self._waiting.pop(moment):
                self._kill(name)

    def _kill(self, name: str) -> None:
        pid = self._pid(name)
        assert pid is not None, f"{name} was not running when its moment came"
        os.kill(pid, signal.SIGKILL)
        self.killed[name] = pid

    def _pid(self, name: str) -> int | None:
        return next((state.pid for state in supervision.states(self._folder) if state.name == name), None)

    def successor(self, name: str) -> int | None:
        return self._pid(name)


@pytest.mark.timeout(declared(1_200, 420))
def test_nine_kills_change_nothing(running_fleet: DevelopmentFleet, counts: Counts) -> None:
    killer = Killer(StateFolder.open(running_fleet.provisioned.services.state_dir))
    result = Demo(running_fleet, killer.report, Pace(stall_seconds=150)).run(PAYMENTS)

    assert set(NINE) <= set(killer.killed)
    counts("payments released in spite of the kills", result.released)
    counts("kill -9 of a process while payments were under way", len(killer.killed))
    assert result.released == PAYMENTS
    assert [row for row in result.books if not row.equal] == []
    assert result.books_equal_chain
    assert result.entries == {
        "payment_detected": PAYMENTS,
        "hold": PAYMENTS,
        "adjustment": PAYMENTS,
        "release": 2 * PAYMENTS,
    }
    for name, pid in killer.killed.items():
        assert killer.successor(name) not in {None, pid}, f"{name} was not started again"
    assert_each_payment_went_its_way_once(running_fleet, result.payment_ids)


@ONLY_LONG
@pytest.mark.timeout(600)
def test_without_any_webhook_every_payment_is_released(running_fleet: DevelopmentFleet, counts: Counts) -> None:
    """L12: the blocks are read against every address ever issued, so money is found that nobody announced."""
    payments = 50
    result = Demo(running_fleet, lambda _stage, _count: None, Pace(stall_seconds=150)).run(payments, webhooks=False)
    counts("payments released without a single webhook", result.released)
    assert (result.deliveries, result.released) == (0, payments)
    assert result.books_equal_chain
    assert_each_payment_went_its_way_once(running_fleet, result.payment_ids)


def assert_each_payment_went_its_way_once(fleet: DevelopmentFleet, payments: tuple[str, ...]) -> None:
    """Exactly the happy path's entries for each payment, one payout on chain, and no work given up."""
    engine = open_engine(fleet.provisioned.services.database_admin_url, application="test-kills")
    try:
        with engine.connect() as connection:
            entries = connection.execute(
                text(
                    "SELECT payment_id::text, entry_type::text || ':' || reason FROM public.funds_ledger_entries "
                    "WHERE payment_id = ANY(CAST(:ids AS uuid[]))"
                ),
                {"ids": list(payments)},
            ).all()
            given_up = connection.execute(text("SELECT queue, reason FROM fleet.dead_work")).all()
            payouts = connection.execute(
                text(
                    "SELECT count(*) FROM fleet.chain_facts f JOIN fleet.release_instructions i "
                    "ON i.recipient = f.recipient WHERE f.direction = 'outbound' "
                    "AND i.payment_id = ANY(CAST(:ids AS uuid[]))"
                ),
                {"ids": list(payments)},
            ).scalar_one()
    finally:
        engine.dispose()
    path = ["payment_detected:seen", "hold:deep", "adjustment:sweep", "release:reserve", "release:final"]
    assert Counter(map(tuple, entries)) == Counter((payment, step) for payment in payments for step in path)
    assert given_up == []
    assert payouts == len(payments)


def test_the_moments_name_all_nine() -> None:
    assert set(NINE) <= {name for names in MOMENTS.values() for name in names}
    assert len(NINE) == 9
