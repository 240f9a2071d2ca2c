"""A chain whose node knows no EIP-7702: the planner takes another way, and says why (``fleet sweeps plan``)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from custody.policy.toml_text import toml_text
from custody.settings.environment import settings
from tests.conftest import Database
from tests.counts import sampled
from tests.sweeping import SweepingFleet, World, sweeping_world
from workers.cli import sweeps

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world("--hardfork", "cancun") as made:
        yield made


def planned(fleet: SweepingFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``fleet sweeps plan`` prints."""
    path = tmp_path / "chains.toml"
    said = fleet.chains.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    path.write_text(toml_text(said))
    monkeypatch.setenv("CHAINS_FILE", str(path))
    monkeypatch.setenv("DATABASE_URL", fleet.database.url("fleet_operator"))
    monkeypatch.setenv("KEYS_AGENT_SOCKET", str(fleet.socket))
    monkeypatch.setenv("SWEEP_GATHER_SECONDS", "0")
    settings.cache_clear()
    app = typer.Typer()
    sweeps.register(app)
    try:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["sweeps", "plan"])
    finally:
        settings.cache_clear()
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("wished", sampled([None, "eip7702_batch"]))
def test_without_eip_7702_coins_go_another_way_and_the_plan_says_why(
    world: World, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wished: str | None
) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt, strategy=wished)
    payments = [fleet.payment(UNIT) for _ in range(2)]
    fleet.pay_all(payments, UNIT)
    said = planned(fleet, tmp_path, monkeypatch)
    assert "2 of 2 go now (2 by top_up_transfer)" in said
    assert "not by eip7702_batch on anvil (USDC): no_7702: the chain's node gives an authorization no effect" in said
    fleet.run()
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    strategies = fleet.market.execute("SELECT DISTINCT strategy FROM fleet.sweep_jobs")
    assert [row.strategy for row in strategies] == ["top_up_transfer"]
    fleet.assert_books_equal_chain()
