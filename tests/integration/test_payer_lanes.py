"""Gas payers on a real node: outbid, cancelled, lost, stolen and several, with the books equal to the chain at the end."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from eth_account import Account
from typer.testing import CliRunner, Result

from custody.chain.lane_leases import take_lease
from custody.chain.lanes import LaneBlocked, open_lane, take_nonce
from custody.chain.signed_bytes import read_signed
from custody.destinations.sweeps.lane_tending import SUSPECT_BLOCKS
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world
from workers.cli import payers

UNIT = 1_000_000
GWEI = 10**9
PATIENCE = 2  # replace_after_blocks of tests/sweeping.py


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.fixture
def fleet(world: World, database: Database) -> Iterator[SweepingFleet]:
    world.chain.set_automine(enabled=False)
    try:
        yield SweepingFleet(world, database, world.contracts.usdt, payers=2)
    finally:
        world.chain.set_automine(enabled=True)
        world.chain.mine(1)


def paid(fleet: SweepingFleet) -> Any:
    """A payment whose coins are at its address."""
    fleet.world.chain.set_automine(enabled=True)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.world.chain.set_automine(enabled=False)
    return payment


def settle(fleet: SweepingFleet) -> None:
    """Blocks and rounds until nothing goes forward."""
    for _ in range(12):
        fleet.world.chain.mine(1)
        fleet.run()
        if all(state in {"swept", "failed"} for state, _ in fleet.jobs()) and open_transactions(fleet) == 0:
            return
    raise AssertionError(f"not settled: {fleet.jobs()}, {open_transactions(fleet)} transactions are open")


def open_transactions(fleet: SweepingFleet) -> int:
    return fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE state IN ('intent', 'signed', 'broadcast')")


def rows(fleet: SweepingFleet, purpose: str = "top_up") -> list[Any]:
    return fleet.market.execute("SELECT * FROM fleet.chain_transactions WHERE purpose = :p ORDER BY nonce", p=purpose)


def signatures(fleet: SweepingFleet, transaction_id: Any) -> list[Any]:
    found = fleet.market.execute(
        "SELECT signed_bytes FROM fleet.nonce_signatures WHERE transaction_id = :id ORDER BY place", id=transaction_id
    )
    return [read_signed(bytes(row.signed_bytes)) for row in found]


def full_blocks(fleet: SweepingFleet, blocks: int) -> None:
    """Blocks without a place for what waits in the pool."""
    fleet.world.chain._request("evm_setBlockGasLimit", [hex(20_000)])
    fleet.world.chain.mine(blocks)
    fleet.world.chain._request("evm_setBlockGasLimit", [hex(30_000_000)])


def test_what_blocks_pass_by_is_outbid_with_the_same_call(fleet: SweepingFleet):
    payment = paid(fleet)
    fleet.run()
    [row] = rows(fleet)
    full_blocks(fleet, PATIENCE)
    fleet.run()
    assert len(signatures(fleet, row.id)) == 1  # its patience is not over
    full_blocks(fleet, 1)
    fleet.run()
    found = signatures(fleet, row.id)
    assert len(found) == 2
    old, new = found
    assert (new.nonce, new.to, new.value, new.data) == (old.nonce, old.to, old.value, old.data)
    assert 8 * new.bid.max_fee >= 9 * old.bid.max_fee
    assert 8 * new.bid.priority >= 9 * old.bid.priority
    assert fleet.world.client.known([new.hash]) == {new.hash}
    settle(fleet)
    assert fleet.destination(payment) == ("swept", 1, UNIT, None)
    [row] = rows(fleet)
    assert (row.transaction_hash, row.hashes) == (new.hash, [old.hash, new.hash])
    fleet.assert_books_equal_chain()


def test_no_replacement_is_dearer_than_the_chain_s_cap(fleet: SweepingFleet):
    [chain] = fleet.chains.chains
    paid(fleet)
    fleet.run()
    [row] = rows(fleet)
    first = read_signed(bytes(row.signed_bytes))
    gas = chain.gas.model_copy(update={"max_fee_per_gas_wei": first.bid.max_fee})
    fleet.chains = fleet.chains.model_copy(update={"chains": (chain.model_copy(update={"gas": gas}),)})
    full_blocks(fleet, PATIENCE + 1)
    fleet.run()
    assert len(signatures(fleet, row.id)) == 1
    assert (fleet.jobs()[0][1] or "").startswith("fees_too_high: ")


@ONLY_LONG
def test_a_top_up_that_became_pointless_is_cancelled_and_costs_its_gas_alone(fleet: SweepingFleet):
    payment = paid(fleet)
    fleet.run()
    [row] = rows(fleet)
    fleet.market.execute(
        "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = 'sanctioned: test'"
    )
    fleet.run()
    [first, cancel] = signatures(fleet, row.id)
    assert (cancel.to, cancel.value, cancel.data, cancel.nonce) == (row.sender, 0, b"", first.nonce)
    fleet.world.chain.mine(2)
    fleet.run()
    [row] = rows(fleet)
    assert (row.state, row.transaction_hash) == ("final", cancel.hash)
    assert fleet.world.client.balance(fleet.address(payment)) == 0
    other = paid(fleet)
    for _ in range(4):
        fleet.world.chain.mine(1)
        fleet.run()
    assert fleet.destination(other)[0] == "swept"
    assert fleet.destination(payment)[0] == "quarantined"
    assert open_transactions(fleet) == 0
    fleet.assert_books_equal_chain()


def test_what_a_node_lost_is_sent_again_in_the_next_block(fleet: SweepingFleet):
    paid(fleet)
    paid(fleet)
    fleet.run()
    for row in rows(fleet):
        fleet.world.chain._request("anvil_dropTransaction", [row.transaction_hash])
    fleet.run()
    assert fleet.world.client.known([row.transaction_hash for row in rows(fleet)]) == {
        row.transaction_hash for row in rows(fleet)
    }
    settle(fleet)
    fleet.assert_books_equal_chain()


def test_payers_share_the_work_and_an_empty_one_stops_nobody(fleet: SweepingFleet):
    for _ in range(4):
        paid(fleet)
    fleet.run()
    assert sorted(row.sender for row in rows(fleet)) == sorted(fleet.payers * 2)
    settle(fleet)
    empty = fleet.payers[0]
    before = [row.id for row in rows(fleet) if row.sender == empty]
    fleet.world.chain.set_balance(empty, 0)
    last = paid(fleet)
    settle(fleet)
    assert fleet.destination(last)[0] == "swept"
    assert [row.id for row in rows(fleet) if row.sender == empty] == before
    [dead] = fleet.market.execute(
        "SELECT * FROM fleet.dead_work WHERE subject_kind = 'gas_payer_floor' AND resolved_at IS NULL"
    )
    assert dead.subject_id == f"{CHAIN_ID}:{empty}"
    assert "send coins of chain" in dead.unblocks
    assert fleet.market.execute("SELECT count(*) AS n FROM fleet.alarms WHERE subject_kind = 'sweeps/gas_payer_floor'")[
        0
    ].n


@pytest.fixture
def operator(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    monkeypatch.setenv("DATABASE_URL", database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    app = typer.Typer()
    payers.register(app)
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def test_a_stolen_nonce_freezes_its_payer_until_an_operator_thaws_it(
    fleet: SweepingFleet, operator: Callable[..., Result]
):
    paid(fleet)
    fleet.run()
    [row] = rows(fleet)
    key = fleet.payer_keys[fleet.payers.index(row.sender)]
    fields: Any = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": row.nonce,
        "to": bytes.fromhex(fleet.treasury[2:]),
        "value": 7,
        "gas": 21_000,
        "maxFeePerGas": 200 * GWEI,
        "maxPriorityFeePerGas": 50 * GWEI,
    }
    raw = bytes(Account.from_key(key).sign_transaction(fields).raw_transaction)
    fleet.world.client.send_raw(raw)  # outbids ours in the pool
    for _ in range(SUSPECT_BLOCKS + 2):
        fleet.world.chain.mine(1)
        fleet.run()
    [lane] = fleet.market.execute("SELECT * FROM fleet.nonce_lanes WHERE address = :a", a=row.sender)
    assert read_signed(raw).hash in lane.frozen_reason
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work WHERE subject_kind = 'nonce_lane'")
    assert dead.resolved_at is None
    later = paid(fleet)
    fleet.run()
    assert {each.sender for each in rows(fleet) if each.id != row.id} == set(fleet.payers) - {row.sender}
    listed = operator("payers", "list")
    assert listed.exit_code == 1
    assert "nonce_stolen" in listed.output
    assert operator("payers", "thaw", row.sender, "--chain", str(CHAIN_ID), "--by", "", "--reason", "x").exit_code == 2
    thawed = operator("payers", "thaw", row.sender, "--chain", str(CHAIN_ID), "--by", "ops", "--reason", "sent by hand")
    assert f"nonces below {row.nonce + 1}" in thawed.output
    settle(fleet)
    assert fleet.destination(later)[0] == "swept"
    assert {state for state, _ in fleet.jobs()} == {"swept"}
    [taken] = [each for each in rows(fleet) if each.id == row.id]
    assert (taken.state, taken.last_error.partition(":")[0]) == ("failed", "nonce_taken")
    assert fleet.count("SELECT count(*) FROM fleet.dead_work WHERE resolved_at IS NULL") == 0


def test_nonces_that_nobody_remembers_are_spent_on_nothing(fleet: SweepingFleet):
    """R22: a restored database's lanes are raised above what it remembers."""
    paid(fleet)
    settle(fleet)
    fleet.market.execute("UPDATE fleet.nonce_lanes SET next_nonce = next_nonce + 2 WHERE kind = 'gas_payer'")
    last = paid(fleet)
    settle(fleet)
    assert fleet.destination(last)[0] == "swept"
    gaps = rows(fleet, "cancel")
    assert len(gaps) == 4
    assert {row.state for row in gaps} == {"final"}
    fleet.assert_books_equal_chain()


def test_one_sender_a_lane(fleet: SweepingFleet, database: Database):
    engine = database.engine("fleet_sweeps")
    payer = fleet.payers[0]
    with transaction(engine) as connection:
        open_lane(connection, CHAIN_ID, payer, "gas_payer", 0)
        first = take_lease(connection, CHAIN_ID, payer)
        assert first is not None
        assert take_lease(connection, CHAIN_ID, payer) is None
    fleet.expire_leases()
    with transaction(engine) as connection:
        second = take_lease(connection, CHAIN_ID, payer)
    assert second is not None
    assert second.fence > first.fence
    with transaction(engine) as connection, pytest.raises(LaneBlocked, match="another sender"):
        take_nonce(
            connection,
            chain_id=CHAIN_ID,
            sender=payer,
            purpose="top_up",
            subject_id=fleet.houses[payer],
            recipient=payer,
            value_wei=1,
            fence=first.fence,
        )
