"""What a task does around its step, and the relay's pass, on a real PostgreSQL."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import Engine
from structlog.testing import capture_logs

from custody.settings import environment
from custody.settings.environment import FleetSettings
from custody.store.engine import forbid_inside_transaction, transaction
from custody.store.outbox import mirror, ring
from custody.store.schedule_runs import claim_slot
from tasks import doors, housekeeping
from tasks.doors import Door, DoorFailed
from tests.conftest import Database
from tests.marketplace import Marketplace
from workers.relay import BrokerAway, relay_once, ring_again


@pytest.fixture
def housekeeper(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A worker process's settings for housekeeping."""
    monkeypatch.setenv("DATABASE_URL", database.url("fleet_housekeeping"))
    environment.settings.cache_clear()
    yield database
    doors.close_engines()
    environment.settings.cache_clear()


def door(step: Callable[[], int]) -> Door:
    def build(_engine: Engine, _settings: FleetSettings) -> Callable[[], int]:
        return step

    return Door("housekeeping", build)


def test_a_ring_runs_the_step_until_it_finds_nothing(housekeeper: Database) -> None:
    moved = iter([100, 40, 0])
    assert door(lambda: next(moved)).answer(None, 0) == 140
    assert list(moved) == []


def test_a_step_that_always_finds_something_is_bounded(housekeeper: Database) -> None:
    assert door(lambda: 1).answer(None, 0) == doors.ROUNDS_LIMIT


def test_the_same_slot_is_answered_once_whoever_rings_and_a_doorbell_always_is(housekeeper: Database) -> None:
    runs: list[int] = []

    def step() -> int:
        runs.append(1)
        return 0

    one = door(step)
    for _ in range(3):
        one.answer("yearly", 86_400)  # three beats in one slot
    assert len(runs) == 1
    one.answer("another", 86_400)
    one.answer(None, 0)
    one.answer(None, 0)
    assert len(runs) == 4


@pytest.mark.parametrize("period", [0, -1, 86_401])
def test_a_message_with_an_impossible_schedule_is_refused(housekeeper: Database, period: int) -> None:
    with pytest.raises(DoorFailed, match="ValueError"):
        door(lambda: 0).answer("made-up", period)


def test_an_error_is_said_once_tells_celery_nothing_and_the_next_ring_goes_on(housekeeper: Database) -> None:
    outcomes = iter([RuntimeError("row 7 of 1250 USDC"), RuntimeError("row 8"), 0, RuntimeError("again")])

    def step() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, RuntimeError):
            raise outcome
        return outcome

    one = door(step)
    structlog.reset_defaults()
    with capture_logs() as logs:
        for expected in (True, True, False, True):
            if expected:
                with pytest.raises(DoorFailed) as failure:
                    one.answer(None, 0)
                assert "1250" not in str(failure.value)
                assert failure.value.__cause__ is None
            else:
                assert one.answer(None, 0) == 0
    events = [entry["event"] for entry in logs]
    assert events == ["step_failed", "step_still_failing", "step_recovered", "step_failed"]


def test_a_slot_is_a_period_long_and_old_claims_are_purged(database: Database) -> None:
    engine = database.engine("fleet_housekeeping")
    now = datetime(2026, 6, 3, 12, 0, 3, tzinfo=UTC)

    def first(seconds: float) -> bool:
        with transaction(engine) as connection:
            return claim_slot(connection, "mirror-due", 5, now + timedelta(seconds=seconds))

    assert [first(0), first(1.9), first(2), first(6.9), first(7)] == [True, False, True, False, True]
    market = Marketplace(database)
    market.execute("UPDATE fleet.schedule_runs SET ran_at = now() - interval '2 hours' WHERE slot % 2 = 0")
    kept = market.execute("SELECT count(*) AS n FROM fleet.schedule_runs WHERE slot % 2 = 1")[0].n
    assert housekeeping.tidy(engine, datetime.now(UTC)) == 3 - kept
    assert market.execute("SELECT count(*) AS n FROM fleet.schedule_runs")[0].n == kept


def test_housekeeping_says_when_nobody_rings(database: Database) -> None:
    market = Marketplace(database)
    with transaction(database.engine("fleet_watcher")) as connection:
        ring(connection, "sweeps")
    structlog.reset_defaults()
    with capture_logs() as quiet:
        housekeeping.tidy(database.engine("fleet_housekeeping"), datetime.now(UTC))
    market.execute("UPDATE fleet.outbox SET created_at = now() - interval '5 minutes'")
    with capture_logs() as loud:
        housekeeping.tidy(database.engine("fleet_housekeeping"), datetime.now(UTC))
    assert ([entry["event"] for entry in quiet], [entry["event"] for entry in loud]) == ([], ["outbox_not_rung"])


class Bell:
    """Remembers what was rung; away until told otherwise."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.rung: list[str] = []

    def ring(self, names: Iterable[str]) -> None:
        forbid_inside_transaction("the broker")
        if self.away:
            raise BrokerAway("test")
        self.rung += names


def fill(database: Database) -> None:
    with transaction(database.engine("fleet_watcher")) as connection:
        for _ in range(5):
            ring(connection, "sweeps")
        ring(connection, "releases")
        mirror(connection, "payments", Marketplace(database).payment())


def rows(database: Database) -> list[tuple[str, bool]]:
    found = Marketplace(database).execute("SELECT queue, rung_at IS NOT NULL AS rung FROM fleet.outbox ORDER BY id")
    return [(row.queue, row.rung) for row in found]


def test_one_doorbell_a_queue_then_doorbells_go_and_mirror_rows_stay(database: Database) -> None:
    fill(database)
    bell, engine = Bell(), database.engine("fleet_relay")
    assert relay_once(engine, bell) == 7
    assert bell.rung == ["mirror", "releases", "sweeps"]
    assert rows(database) == [("mirror", True)]
    assert relay_once(engine, bell) == 0


def test_a_broker_that_is_away_marks_nothing(database: Database) -> None:
    fill(database)
    engine = database.engine("fleet_relay")
    with pytest.raises(BrokerAway):
        relay_once(engine, Bell(away=True))
    assert len(rows(database)) == 7
    assert not any(rung for _, rung in rows(database))


def test_a_crash_between_publish_and_mark_rings_twice_and_loses_nothing(database: Database) -> None:
    fill(database)
    engine = database.engine("fleet_relay")

    class Dies(Bell):
        def ring(self, names: Iterable[str]) -> None:
            super().ring(names)
            raise KeyboardInterrupt

    first, second = Dies(), Bell()
    with pytest.raises(KeyboardInterrupt):
        relay_once(engine, first)
    relay_once(engine, second)
    assert first.rung == second.rung
    assert rows(database) == [("mirror", True)]


def test_mirror_rows_that_are_due_again_are_rung_again_and_no_others(database: Database) -> None:
    fill(database)
    engine = database.engine("fleet_relay")
    relay_once(engine, Bell())
    market, bell = Marketplace(database), Bell()
    assert ring_again(engine, bell) == 0  # rung a moment ago
    market.execute("UPDATE fleet.outbox SET rung_at = now() - interval '1 minute', run_after = now() + interval '1 h'")
    assert ring_again(engine, bell) == 0  # MongoDB was away: not due yet
    market.execute("UPDATE fleet.outbox SET run_after = now()")
    assert ring_again(engine, bell) == 1
    assert ring_again(engine, bell) == 0
    assert bell.rung == ["mirror"]
