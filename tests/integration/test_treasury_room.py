"""R5: what an EOA treasury may hold bounds what is swept into it."""

from collections.abc import Iterator

import pytest

from custody.settings.chains import Chains
from tests.conftest import Database
from tests.sweeping import SweepingFleet, World, sweeping_world

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


def test_an_eoa_treasury_takes_no_more_than_its_maximum(world: World, database: Database) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payments = [fleet.payment(4_000 * UNIT) for _ in range(3)]
    fleet.pay_all(payments, 4_000 * UNIT)
    fleet.run()
    assert [state for state, _ in fleet.jobs()] == ["swept", "swept"]
    [stuck] = fleet.market.execute(
        "SELECT subject_kind, reason, unblocks FROM fleet.dead_work WHERE resolved_at IS NULL"
    )
    assert stuck.subject_kind == "treasury"
    assert stuck.reason == "treasury_full: anvil's treasury would hold 12000 USDC, an EOA may hold 10000 (R5)"
    assert "Safe" in stuck.unblocks
    said = fleet.chains.model_dump()
    for token in said["chains"][0]["tokens"]:
        token["treasury_maximum"] = "20000"
    fleet.chains = Chains.model_validate(said)
    fleet.run()
    assert [state for state, _ in fleet.jobs()] == ["swept", "swept", "swept"]
    assert fleet.count("SELECT count(*) FROM fleet.dead_work WHERE resolved_at IS NULL") == 0
    fleet.assert_books_equal_chain()
