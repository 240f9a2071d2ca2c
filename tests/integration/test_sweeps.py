"""Sweeps on a real chain with real tokens: to the treasury exactly once, whatever breaks in between."""

from collections.abc import Iterator

import pytest

from tests.conftest import Database
from tests.sweeping import SweepingFleet, World, sweeping_world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.mark.parametrize("token_name", ["usdc", "usdt"])
def test_a_deposit_reaches_the_treasury_and_the_books_equal_the_chain(
    world: World, database: Database, token_name: str
):
    fleet = SweepingFleet(world, database, getattr(world.contracts, token_name))
    payment = fleet.payment(100_000_000)
    fleet.pay(payment, 100_000_000)
    fleet.run()
    assert [state for state, _ in fleet.jobs()] == ["swept"], fleet.jobs()
    assert fleet.destination(payment) == ("swept", 1, 100_000_000, None)
    assert world.client.token_balance(fleet.token, fleet.treasury) == 100_000_000
    balance = fleet.market.balance(payment)
    assert (balance["destination"], balance["treasury"], balance["held"]) == (0, 100, 100)
    fleet.assert_books_equal_chain()
