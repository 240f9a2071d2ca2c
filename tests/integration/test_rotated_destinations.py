"""Deposit addresses that know the treasury of before a rotation (R22): forwarders, which can pay no other, and addresses that
are delegated to its delegate."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from eth_account import Account

from custody.destinations.contracts import deploy_and_sweep_many_call, sweep_contracts, sweep_many_call
from custody.destinations.forwarders import FLUSHED_STATES, forwarder_salt
from custody.destinations.keys.client import KeysAgent
from custody.destinations.keys.payer_calls import require_batch_call
from custody.destinations.keys.shapes import KnownChain, ShapeRefused
from custody.destinations.sweeps.planner import candidates
from custody.destinations.sweeps.signing import SweepSigner
from custody.settings.chains import Chains
from custody.store.engine import transaction
from custody.trezor import UnsignedTransaction
from tests.conftest import Database
from tests.keys_agent import serving, vault_of
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world
from workers.demo.sweep_contracts import deploy_sweep_contracts

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


def rotate(fleet: SweepingFleet, state: str = "draining") -> str:
    """Another treasury in the chains file and for the keys agent, its contracts deployed; the old one's address."""
    old, fleet.treasury = fleet.treasury, Account.create().address
    said = fleet.chains.model_dump()
    [chain] = said["chains"]
    former = {"address": old, "state": state, "safe": chain["safe"]}
    safe = {"owners": [Account.create().address for _ in range(3)], "threshold": 2} if chain["safe"] else None
    chain |= {"treasury": fleet.treasury, "safe": safe, "former_treasuries": [former]}
    bind(fleet, Chains.model_validate({"chains": [chain]}), state)
    fleet.contracts = deploy_sweep_contracts(fleet.world.deployer, fleet.world.chain, fleet.treasury)
    fleet.name_operators(*fleet.payers)
    return old


def mark(fleet: SweepingFleet, state: str) -> None:
    """The former treasury is ``state`` from now on."""
    said = fleet.chains.model_dump()
    said["chains"][0]["former_treasuries"][0]["state"] = state
    bind(fleet, Chains.model_validate(said), state)


def bind(fleet: SweepingFleet, chains: Chains, name: str) -> None:
    fleet.chains = chains
    socket = fleet.socket.with_name(f"{name}.sock")
    vault = vault_of(fleet.phrase, fleet.payer_key, chains, fleet.socket.with_name(f"{name}-journal"))
    fleet.world.agents.enter_context(serving(vault, socket))
    fleet.signer = SweepSigner(KeysAgent(socket))


def paid(fleet: SweepingFleet, count: int) -> list[UUID]:
    payments = [fleet.payment(UNIT) for _ in range(count)]
    fleet.pay_all(payments, UNIT)
    return payments


def why_it_waits(fleet: SweepingFleet) -> set[str | None]:
    with transaction(fleet.database.engine("fleet_sweeps")) as connection:
        return {each.reason for each in candidates(connection, fleet.chains, limit=10)}


def lying(fleet: SweepingFleet, *addresses: str) -> list[int]:
    return [fleet.world.client.token_balance(fleet.token, each) for each in addresses]


@pytest.mark.parametrize("state", sorted(FLUSHED_STATES))
def test_forwarders_of_a_former_treasury_are_flushed_to_it_and_those_of_the_new_one_to_the_new_one(
    world: World, database: Database, state: str
) -> None:
    """What then lies at the old one is moved to the active one like everything else there (fleet treasury rotate --drain)."""
    fleet = SweepingFleet(world, database, world.contracts.usdt, strategy="create2_forwarder")
    made_before = paid(fleet, 3)
    old = rotate(fleet, state)
    made_after = paid(fleet, 2)
    fleet.run()
    assert fleet.jobs() == [("swept", None)] * 5
    assert lying(fleet, old, fleet.treasury) == [3 * UNIT, 2 * UNIT]
    assert {fleet.destination(each) for each in (*made_before, *made_after)} == {("swept", 1, UNIT, None)}
    calls = fleet.market.execute("SELECT recipient FROM fleet.chain_transactions ORDER BY recipient")
    assert [row.recipient for row in calls] == sorted(sweep_contracts(each).batcher for each in (old, fleet.treasury))
    fleet.assert_books_equal_chain()


def test_coins_of_forwarders_wait_while_their_treasury_is_compromised(world: World, database: Database) -> None:
    """Whoever else signs for it would have them at once; where they lie, he must name operators and flush first."""
    fleet = SweepingFleet(world, database, world.contracts.usdt, strategy="create2_forwarder")
    paid(fleet, 2)
    old = rotate(fleet, "compromised")
    fleet.run()
    assert fleet.jobs() == []
    [why] = why_it_waits(fleet)
    assert (why or "").startswith(f"other_treasury: the forwarder can pay {old} alone, which is compromised")
    assert lying(fleet, old) == [0]
    fleet.assert_books_equal_chain()


def test_a_flush_that_was_planned_before_the_compromise_is_not_sent_after_it(world: World, database: Database) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt, strategy="create2_forwarder")
    paid(fleet, 2)
    old = rotate(fleet)
    fleet.market.execute(
        "INSERT INTO fleet.sweep_jobs (destination_id, chain_id, token, strategy, amount_units, treasury) "
        "SELECT d.id, 31337, :token, 'create2_forwarder', :units, :old FROM public.derived_destinations d "
        "WHERE d.deposit_account_id = :account RETURNING id",
        token=fleet.token, units=UNIT, old=old, account=fleet.account,
    )  # fmt: skip
    mark(fleet, "compromised")
    fleet.run()
    assert {(state, (reason or "").partition(":")[0]) for state, reason in fleet.jobs()} == {
        ("planned", "other_treasury")
    }
    assert lying(fleet, old) == [0]


def test_an_address_delegated_to_the_old_treasurys_delegate_takes_the_new_one_s(
    world: World, database: Database
) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt, strategy="eip7702_batch")
    payments = paid(fleet, 2)
    fleet.run()
    address = fleet.address(payments[0])
    old = rotate(fleet)
    assert world.client.code(address) == sweep_contracts(old).delegation
    fleet.pay_all(payments, UNIT)
    fleet.run()
    assert world.client.code(address) == sweep_contracts(fleet.treasury).delegation
    assert {fleet.destination(each) for each in payments} == {("swept", 2, 2 * UNIT, None)}
    assert lying(fleet, old, fleet.treasury) == [2 * UNIT, 2 * UNIT]
    fleet.assert_books_equal_chain()


OLD, NEW, TOKEN = (Account.create().address for _ in range(3))


@pytest.mark.parametrize(
    ("state", "to", "data", "words"),
    [
        ("draining", "old", "deploy", None),
        ("retired", "old", "deploy", None),
        ("compromised", "old", "deploy", "binds on chain"),
        ("draining", "old", "sweep", "only its own forwarders are flushed to it"),
        ("draining", "new", "deploy", "only its own forwarders are flushed to it"),
        (None, "old", "deploy", "binds on chain"),
    ],
)
def test_the_keys_agent_flushes_a_former_treasurys_forwarders_and_sweeps_nothing_else_to_it(
    state: str | None, to: str, data: str, words: str | None
) -> None:
    """R8, R20: what the signed genesis says of the treasury decides, whatever the worker asks."""
    call = (
        deploy_and_sweep_many_call(TOKEN, [forwarder_salt(UUID(int=1), 1)], 100_000)
        if data == "deploy"
        else sweep_many_call(TOKEN, [Account.create().address], 100_000)
    )
    transaction_ = UnsignedTransaction(
        CHAIN_ID, 0, 1, 10, 500_000, sweep_contracts({"old": OLD, "new": NEW}[to]).batcher, 0, call
    )
    chain = KnownChain(CHAIN_ID, NEW, {TOKEN}, {} if state is None else {OLD: state})
    if words is None:
        require_batch_call(transaction_, chain=chain, treasury=OLD)
        return
    with pytest.raises(ShapeRefused, match=words):
        require_batch_call(transaction_, chain=chain, treasury=OLD)
