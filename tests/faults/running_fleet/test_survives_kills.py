"""Neither kill -9 of each worker, the relay, beat, Valkey and MongoDB nor the silence of every webhook changes the result."""

from collections import Counter

import pytest
from sqlalchemy import text

from custody.store.engine import open_engine
from tests.counts import ONLY_LONG, Counts
from tests.faults.running_fleet.conftest import MOMENTS, PAYMENTS, Killer, pid_of
from workers.demo.fleet import DevelopmentFleet
from workers.demo.run import Demo, DemoResult
from workers.demo.stages import Pace
from workers.queues import QUEUES

TEN = (*(f"worker-{queue.name}" for queue in QUEUES), "relay", "beat", "valkey", "mongo")


@ONLY_LONG
@pytest.mark.timeout(1_200)
def test_ten_kills_change_nothing(
    running_fleet: DevelopmentFleet, survived: tuple[DemoResult, Killer], counts: Counts
) -> None:
    result, killer = survived
    assert set(TEN) <= set(killer.killed)
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
        assert pid_of(name) not in {None, pid}, f"{name} was not started again"
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


def test_the_moments_name_all_ten() -> None:
    assert set(TEN) <= {name for names in MOMENTS.values() for name in names}
    assert len(TEN) == 10
