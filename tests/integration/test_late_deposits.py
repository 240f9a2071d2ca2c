"""What a sweep took along goes through detection like any deposit, and the sweep is booked against it then (L11, L20)."""

from collections.abc import Iterator

import pytest

from custody.chain import Receipt, to_amount
from custody.destinations.sweeps.late_deposits import settle_late_deposits
from tests.conftest import Database
from tests.integration.chain_fixtures import Died, dying_at
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world
from workers.demo.contracts import mint

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


class Late:
    """A sweep that took half a token which nobody had looked at."""

    def __init__(self, world: World, database: Database) -> None:
        self.fleet = fleet = SweepingFleet(world, database, world.contracts.usdt)
        self.payment = fleet.payment(2 * UNIT)
        fleet.pay(self.payment, UNIT)
        self.deposit: Receipt = world.deployer.wait(
            mint(world.deployer, world.contracts, fleet.token, fleet.address(self.payment), UNIT // 2)
        )
        # A strategy that moves the balance: here, the job's own amount is raised before the first look at the chain.
        fleet.market.execute(
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.amount_units := NEW.amount_units * 3 / 2; RETURN NEW; END'"
        )
        fleet.market.execute(
            "CREATE TRIGGER more BEFORE INSERT ON fleet.sweep_jobs FOR EACH ROW EXECUTE FUNCTION more()"
        )
        fleet.run()
        assert fleet.world.client.token_balance(fleet.token, fleet.treasury) == 3 * UNIT // 2

    def settle(self) -> int:
        fleet = self.fleet
        return settle_late_deposits(fleet.database.engine("fleet_sweeps"), {CHAIN_ID: fleet.world.client})

    def looks(self) -> list[str]:
        rows = self.fleet.market.execute("SELECT transaction_hash FROM fleet.chain_looks WHERE state = 'due'")
        return [row.transaction_hash for row in rows]

    def unbooked(self) -> int:
        return self.fleet.count("SELECT coalesce(sum(unbooked_units), 0) FROM fleet.chain_facts WHERE live")

    def waits(self) -> int:
        return self.fleet.count("SELECT count(*) FROM fleet.dead_work WHERE resolved_at IS NULL")


@pytest.fixture
def late(world: World, database: Database) -> Late:
    return Late(world, database)


def test_it_is_found_looked_at_and_only_then_booked(late: Late) -> None:
    fleet = late.fleet
    assert (late.unbooked(), late.waits(), late.looks()) == (UNIT // 2, 1, [])
    assert late.settle() == 0
    assert late.looks() == [late.deposit.transaction_hash]
    assert late.unbooked() == UNIT // 2  # a look is a hint: nothing is booked by it
    fleet.market.execute("DELETE FROM fleet.chain_looks RETURNING id")
    assert late.settle() == 0
    assert late.looks() == []  # searched for once
    fleet.book(late.payment, late.deposit, judged=True)
    assert late.settle() == 1
    assert (late.unbooked(), late.waits()) == (0, 0)
    balance = fleet.market.balance(late.payment)
    assert (balance["treasury"], balance["destination"]) == (to_amount(3 * UNIT // 2, 6), 0)
    fleet.assert_books_equal_chain()
    assert late.settle() == 0


def test_what_comes_after_the_sweep_is_not_taken_for_what_it_took(late: Late) -> None:
    fleet = late.fleet
    fleet.pay(late.payment, UNIT)
    assert late.settle() == 0
    assert late.unbooked() == UNIT // 2
    fleet.book(late.payment, late.deposit, judged=False)
    assert late.settle() == 1
    assert fleet.market.balance(late.payment)["destination"] == 1
    fleet.assert_books_equal_chain()


def test_a_death_at_any_statement_books_it_once(late: Late) -> None:
    fleet = late.fleet
    fleet.book(late.payment, late.deposit, judged=True)
    engine, deaths = fleet.database.engine("fleet_sweeps"), 0
    while late.unbooked():
        deaths += 1
        assert fleet.market.balance(late.payment)["treasury"] == 1
        with dying_at(engine, deaths):
            try:
                late.settle()
            except Died:
                continue
    assert deaths > 6
    late.settle()
    assert late.waits() == 0
    assert fleet.market.balance(late.payment)["treasury"] == to_amount(3 * UNIT // 2, 6)
    fleet.assert_books_equal_chain()
