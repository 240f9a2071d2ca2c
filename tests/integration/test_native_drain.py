"""Native coin is swept to the last wei, and the treasury's own coins give the fee back (L8)."""

from collections.abc import Iterator

import pytest

from custody.chain.fence import Fence
from custody.chain.house_funding import book_funding
from custody.destinations.sweeps.choosing import Economics
from custody.settings.chains import NATIVE
from tests.conftest import Database
from tests.sweeping import SweepingFleet, World, sweeping_world
from workers.demo.development_chain import ETHER


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.fixture
def fleet(world: World, database: Database) -> SweepingFleet:
    made = SweepingFleet(world, database, NATIVE)
    made.fund(ETHER, made.treasury)
    return made


def test_a_drain_leaves_nothing_and_the_payment_has_all_of_it(fleet: SweepingFleet):
    payments = [fleet.payment(2 * ETHER) for _ in range(3)]
    fleet.pay_all(payments, 2 * ETHER)
    fleet.run()
    assert [state for state, _ in fleet.jobs()] == ["swept"] * 3
    for payment in payments:
        assert fleet.world.client.balance(fleet.address(payment)) == 0
        assert fleet.destination(payment) == ("swept", 1, 2 * ETHER, None)
        balance = fleet.market.balance(payment)
        assert (balance["destination"], balance["treasury"], balance["held"]) == (0, 2, 2)
    fleet.assert_books_equal_chain()
    rows = fleet.market.execute("SELECT value_wei, fee_wei FROM fleet.chain_transactions")
    assert {int(row.value_wei + row.fee_wei) for row in rows} == {2 * ETHER}
    shares = fleet.market.execute(
        "SELECT s.payment_id, s.wei, e.amount * 1000000000000000000 AS entry FROM fleet.gas_shares s "
        "JOIN public.funds_ledger_entries e ON e.id = s.entry_id"
    )
    assert {row.payment_id for row in shares} == set(payments)
    assert all(row.wei == row.entry for row in shares)


def test_without_coins_of_its_own_the_treasury_takes_no_drain(world: World, database: Database):
    fleet = SweepingFleet(world, database, NATIVE)
    payment = fleet.payment(ETHER)
    fleet.pay(payment, ETHER)
    fleet.run()
    [(state, reason)] = fleet.jobs()
    assert (state, (reason or "").partition(":")[0]) == ("planned", "house_float_low")
    fleet.fund(ETHER, fleet.treasury)
    fleet.run()
    assert fleet.destination(payment)[0] == "swept"
    fleet.assert_books_equal_chain()


def test_what_is_worth_less_than_its_gas_stays(fleet: SweepingFleet):
    payment = fleet.payment(1000)
    fleet.pay(payment, 1000)
    fleet.run()
    assert fleet.jobs() == []  # the economic gate
    fleet.economics = Economics(value_multiple=0)
    fleet.run()
    [(state, reason)] = fleet.jobs()
    assert (state, (reason or "").partition(":")[0]) == ("planned", "gas_too_much")
    fleet.assert_books_equal_chain()


def test_an_address_with_code_is_not_drained_by_its_key(fleet: SweepingFleet):
    payment = fleet.payment(ETHER)
    fleet.pay(payment, ETHER)
    fleet.world.chain._request("anvil_setCode", [fleet.address(payment), "0xef0100" + "22" * 20])
    fleet.run()
    status, _, _, reason = fleet.destination(payment)
    assert status == "quarantined"
    assert (reason or "").startswith("address_has_code")


def test_payments_coins_at_the_treasury_are_no_funding_of_the_house(fleet: SweepingFleet):
    """They came by a transaction of ours: the watcher books what came beside them, and nothing else."""
    payment = fleet.payment(ETHER)
    fleet.pay(payment, ETHER)
    fleet.run()
    watcher = fleet.database.engine("fleet_watcher")
    [chain] = fleet.chains.chains

    def funded() -> int:
        fence = Fence.take(watcher, chain.id)
        return book_funding(watcher, fleet.world.client, chain, fence, fleet.world.client.head())

    assert funded() == 0
    fleet.world.chain.set_balance(fleet.treasury, fleet.world.client.balance(fleet.treasury) + 7)
    assert funded() == 1
    fleet.assert_books_equal_chain()
