"""R5: what an EOA treasury may hold bounds what is swept into it."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from eth_account import Account

from custody.chain.lanes import open_lane, store_signed, take_nonce, transactions_of
from custody.destinations.keys.client import KeysAgent
from custody.destinations.sweeps import jobs, sending
from custody.destinations.sweeps.rotation import follow_treasury
from custody.destinations.sweeps.signing import SweepSigner
from custody.settings.chains import Chains
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import sampled
from tests.integration.test_release_crashes import Killed, dies_before
from tests.keys_agent import serving, vault_of
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world

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


# A rotation (R22): the new treasury has a room of its own, and what is not signed yet goes there --------------------------


def rotate(fleet: SweepingFleet, state: str = "draining") -> str:
    """Another treasury in the chains file and for the keys agent; the old one's address."""
    old, fleet.treasury = fleet.treasury, Account.create().address
    said = fleet.chains.model_dump()
    [chain] = said["chains"]
    chain |= {"treasury": fleet.treasury, "former_treasuries": [{"address": old, "state": state}]}
    fleet.chains = Chains.model_validate({"chains": [chain]})
    socket = fleet.socket.with_name("rotated.sock")
    vault = vault_of(fleet.phrase, fleet.payer_key, fleet.chains, fleet.socket.with_name("rotated"))
    fleet.world.agents.enter_context(serving(vault, socket))
    fleet.signer = SweepSigner(KeysAgent(socket))
    return old


def swept_to(fleet: SweepingFleet, payment: UUID) -> str:
    [row] = fleet.market.execute(
        "SELECT debit_address FROM public.funds_ledger_entries WHERE payment_id = :p AND reason = 'sweep'", p=payment
    )
    return row.debit_address


@pytest.mark.parametrize("state", sampled(["compromised", "draining"]))
def test_a_signed_sweep_settles_where_it_went_and_the_next_ones_go_to_the_new_treasury(
    world: World, database: Database, state: str
) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    sent, funded, planned = (fleet.payment(100 * UNIT) for _ in range(3))
    fleet.pay(sent, 100 * UNIT)
    fleet.round()
    fleet.pay(funded, 100 * UNIT)
    fleet.round()
    assert [each for each, _ in fleet.jobs()] == ["transferring", "funding"]
    old = rotate(fleet, state)
    fleet.pay(planned, 100 * UNIT)
    fleet.run()
    assert [swept_to(fleet, each) for each in (sent, funded, planned)] == [old, fleet.treasury, fleet.treasury]
    assert [world.client.token_balance(fleet.token, each) for each in (old, fleet.treasury)] == [100 * UNIT, 200 * UNIT]
    assert [each for each, _ in fleet.jobs()] == ["swept"] * 3
    fleet.assert_books_equal_chain()


@pytest.mark.parametrize("place", ["store_signed", "reload"])
def test_an_intent_without_bytes_is_written_anew_and_stored_bytes_are_not(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A worker that dies between the nonce and its bytes leaves nothing that anybody could send (L15)."""
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    fleet.round()
    with monkeypatch.context() as patch:
        patch.setattr(sending, place, dies_before(getattr(sending, place)))
        with pytest.raises(Killed):
            fleet.round()
    [left] = fleet.market.execute("SELECT signed_bytes FROM fleet.chain_transactions WHERE purpose = 'sweep'")
    assert (left.signed_bytes is None) == (place == "store_signed")
    old = rotate(fleet)
    fleet.market.execute("UPDATE fleet.sweep_jobs SET lease_until = now() - interval '1 second'")
    fleet.run()
    assert swept_to(fleet, payment) == (fleet.treasury if place == "store_signed" else old)
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE purpose = 'sweep'") == 1
    fleet.assert_books_equal_chain()


def test_bytes_of_an_intent_that_was_written_anew_are_not_kept(world: World, database: Database) -> None:
    """A worker that slept through the rotation stores nothing over what the others wrote."""
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(100 * UNIT)
    with transaction(database.engine("fleet_sweeps")) as connection:
        open_lane(connection, CHAIN_ID, fleet.address(payment), "destination", 0)
        intent = take_nonce(
            connection, chain_id=CHAIN_ID, sender=fleet.address(payment), purpose="sweep", subject_id=payment,
            recipient=fleet.token, value_wei=0, data=b"to the new one",
        )  # fmt: skip
        store_signed(connection, intent.id, b"raw", "0x" + "ab" * 32, call=(fleet.token, b"to the old one"))
        [kept] = transactions_of(connection, payment)
        assert (kept.state, kept.signed_bytes) == ("intent", None)


def test_a_sweep_in_an_open_batch_keeps_the_treasury_that_the_batch_is_signed_for(
    world: World, database: Database
) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    fleet.round()
    fleet.market.execute(
        "WITH made AS (INSERT INTO fleet.sweep_batches (chain_id, token, strategy, treasury) VALUES (:c, :t, 'test', :at) "
        "RETURNING id) UPDATE fleet.sweep_jobs SET batch_id = made.id FROM made",
        c=CHAIN_ID, t=fleet.token, at=fleet.treasury,
    )  # fmt: skip
    old = rotate(fleet)
    chain = fleet.chains.chain(CHAIN_ID)
    with transaction(database.engine("fleet_sweeps")) as connection:
        leased = jobs.lease(connection, 10)
        assert [each.treasury for each in follow_treasury(connection, chain, leased)] == [old]
    fleet.market.execute("UPDATE fleet.sweep_batches SET state = 'dissolved', ended_at = now()")
    with transaction(database.engine("fleet_sweeps")) as connection:
        assert [each.treasury for each in follow_treasury(connection, chain, leased)] == [fleet.treasury]


def test_the_room_is_the_active_treasurys_own(world: World, database: Database) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payments = [fleet.payment(4_000 * UNIT) for _ in range(3)]
    fleet.pay_all(payments, 4_000 * UNIT)
    fleet.run()
    assert len(fleet.jobs()) == 2
    old = rotate(fleet)
    more = fleet.payment(8_000 * UNIT)
    fleet.pay(more, 8_000 * UNIT)
    fleet.run()
    assert [world.client.token_balance(fleet.token, each) for each in (old, fleet.treasury)] == [
        8_000 * UNIT,
        4_000 * UNIT,
    ]
    [stuck] = fleet.market.execute("SELECT reason FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert "would hold 12000 USDC" in stuck.reason
