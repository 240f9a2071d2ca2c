"""Proof of escrow at a block (L22): right while coins are moving, and what nothing explains is found."""

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import typer
from eth_account import Account
from typer.testing import CliRunner

from custody.chain import erc20
from custody.ledger.reports.escrow import NothingJudged, Proof, prove_escrow
from custody.settings.environment import load_settings
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet, chain_world
from tests.release_scene import Scene
from tests.sweeping import CHAIN_ID, SweepingFleet, World, sweeping_world
from tests.token_chain import TokenChain, running_token_chain
from workers.cli import escrow as command
from workers.demo.contracts import mint
from workers.demo.development_chain import ETHER

UNIT = 1_000_000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.fixture
def fleet(world: World, database: Database) -> SweepingFleet:
    return SweepingFleet(world, database, world.contracts.usdc)


def proof_of(fleet: SweepingFleet, at_block: int | None = None) -> Proof:
    operator = fleet.database.engine("fleet_operator")
    return prove_escrow(operator, fleet.world.client, fleet.chains.chains[0], at_block)


def reasons(proof: Proof) -> list[str]:
    return sorted({item.why.partition(":")[0] for item in proof.in_transit})


def set_depth(fleet: SweepingFleet, blocks: int) -> None:
    with transaction(fleet.database.engine()) as connection:
        set_threshold(connection, CHAIN_ID, blocks, floor_blocks=1, by="test", reason="test")


@contextmanager
def swept_but_shallow(fleet: SweepingFleet) -> Generator[list[UUID]]:
    """Two payments whose top-ups and sweeps are mined, none of them deep enough to be booked."""
    payments = [fleet.payment(100 * UNIT), fleet.payment(70 * UNIT)]
    fleet.pay(payments[0], 100 * UNIT)
    fleet.pay(payments[1], 70 * UNIT)
    set_depth(fleet, 50)
    for _ in range(12):
        fleet.round()
    assert fleet.world.client.token_balance(fleet.token, fleet.treasury) == 170 * UNIT
    assert fleet.market.balance(payments[0])["treasury"] == 0
    fleet.see_head()
    yield payments
    set_depth(fleet, 1)


def test_sweeps_in_flight_are_listed_and_nothing_remains(fleet: SweepingFleet) -> None:
    with swept_but_shallow(fleet) as payments:
        proof = proof_of(fleet)
        assert proof.holds
        assert reasons(proof) == ["sweep", "top-up"]
        at = {(asset.token, asset.address): asset for asset in proof.assets}
        destination = at[fleet.token, fleet.address(payments[0])]
        assert (destination.booked, destination.in_transit, destination.found) == (100 * UNIT, -100 * UNIT, 0)
        treasury = at[fleet.token, fleet.treasury]
        assert (treasury.booked, treasury.in_transit, treasury.found) == (0, 170 * UNIT, 170 * UNIT)
        assert not any(asset.equal for asset in (destination, treasury))
        sent = {row.transaction_hash for row in fleet.market.execute("SELECT * FROM fleet.chain_transactions")}
        assert {item.transaction_hash for item in proof.in_transit} == sent
    fleet.run()
    proof = proof_of(fleet)
    assert proof.in_transit == []
    assert all(asset.equal for asset in proof.assets)
    assert {total.account: int(total.amount) for total in proof.totals if total.token == fleet.token} == {
        "treasury": 170, "held": 170,
    }  # fmt: skip


def test_every_block_of_a_sweep_can_be_proven_afterwards(fleet: SweepingFleet) -> None:
    """At an older block the later entries are listed instead, each by its id."""
    first = fleet.world.client.head().number
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    fleet.run()
    fleet.see_head()
    last = fleet.world.client.head().number
    assert last >= first + 3
    for block in range(first, last + 1):
        proof = proof_of(fleet, block)
        assert (proof.block, proof.remainders, proof.imbalances) == (block, [], []), block
    entries = {row.id for row in fleet.market.execute("SELECT id FROM public.funds_ledger_entries")}
    listed = {item.entry_id for item in proof_of(fleet, first).in_transit}
    assert None not in listed
    assert listed < entries


def test_a_proof_taken_at_any_time_of_a_running_sweep_holds(fleet: SweepingFleet) -> None:
    """The property: whatever moment is looked at, the remainder is zero."""
    payments = [fleet.payment((number + 1) * UNIT) for number in range(4)]
    for number, payment in enumerate(payments):
        fleet.pay(payment, (number + 1) * UNIT)
    set_depth(fleet, 2)
    proofs: list[Proof] = []
    done = threading.Event()

    def prove() -> None:
        while not done.is_set():
            proofs.append(proof_of(fleet))

    prover = threading.Thread(target=prove)
    prover.start()
    try:
        for _ in range(60):
            fleet.round()
            if all(state == "swept" for state, _ in fleet.jobs()) and len(fleet.jobs()) == len(payments):
                break
            fleet.world.chain.mine(1)
    finally:
        done.set()
        prover.join()
    assert {state for state, _ in fleet.jobs()} == {"swept"}
    assert [proof for proof in proofs if not proof.holds] == []
    assert any(proof.in_transit for proof in proofs)


def test_stolen_coins_are_a_remainder(fleet: SweepingFleet) -> None:
    """Also while an honest sweep is under way: the theft is told apart from it."""
    with swept_but_shallow(fleet):
        fleet.world.chain.set_balance(fleet.treasury, ETHER)
        fleet.world.chain._request("anvil_impersonateAccount", [fleet.treasury])
        data = "0x" + erc20.encode_transfer(Account.create().address, 3 * UNIT).hex()
        theft = {"from": fleet.treasury, "to": fleet.token, "data": data}
        fleet.world.deployer.wait(str(fleet.world.chain._request("eth_sendTransaction", [theft])))
        fleet.see_head()
        proof = proof_of(fleet)
        assert [(one.address, one.remainder) for one in proof.remainders] == [(fleet.treasury, -3 * UNIT)]
        assert not proof.holds


def test_a_deposit_nobody_announced_is_listed_while_it_is_new(fleet: SweepingFleet) -> None:
    payment = fleet.payment(100 * UNIT)
    wallet = fleet.world.deployer
    sent = mint(wallet, fleet.world.contracts, fleet.token, fleet.address(payment), 5 * UNIT)
    wallet.wait(sent)
    fleet.see_head()
    proof = proof_of(fleet)
    [item] = proof.in_transit
    assert (item.why.partition(":")[0], item.units, item.transaction_hash) == ("deposit", 5 * UNIT, sent)
    assert proof.holds
    fleet.world.chain.mine(300)
    fleet.see_head()
    [left] = proof_of(fleet).remainders
    assert (left.address, left.remainder) == (fleet.address(payment), 5 * UNIT)


def test_a_house_accounts_new_coins_are_funding_and_its_missing_ones_a_remainder(fleet: SweepingFleet) -> None:
    fleet.world.chain.set_balance(fleet.payer, fleet.world.client.balance(fleet.payer) + 7)
    proof = proof_of(fleet)
    assert [(item.place, item.units) for item in proof.in_transit] == [(("native", fleet.payer), 7)]
    fleet.world.chain.set_balance(fleet.payer, fleet.world.client.balance(fleet.payer) - 9)
    assert [(one.address, one.remainder) for one in proof_of(fleet).remainders] == [(fleet.payer, -2)]


def test_a_changed_balance_row_is_out_of_balance(fleet: SweepingFleet) -> None:
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    fleet.market.execute(
        "UPDATE fleet.ledger_balances SET destination = destination + 1, held = held + 1 WHERE book_id = :id",
        id=payment,
    )
    proof = proof_of(fleet)
    assert not proof.holds
    [sentence] = proof.imbalances
    assert "the entries" in sentence


def test_a_block_above_the_judged_one_is_refused(fleet: SweepingFleet) -> None:
    with pytest.raises(NothingJudged, match="above the last judged one"):
        proof_of(fleet, 10**9)


# Releases ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_chain() -> Iterator[TokenChain]:
    with running_token_chain() as chain:
        chain.development.mine(20)  # the scene's facts say block 10
        yield chain


@pytest.fixture
def scene(
    token_chain: TokenChain, database: Database, mongo_database: str, services: object, tmp_path: Path
) -> Iterator[Scene]:
    made = Scene(token_chain, database, services.mongo_url, mongo_database, tmp_path)  # pyright: ignore[reportAttributeAccessIssue]
    yield made
    made.close()


def see_head(scene: Scene) -> None:
    head = scene.chain.deployer.client.head()
    scene.market.execute("UPDATE fleet.chain_cursors SET head_number = :n, head_hash = :h", n=head.number, h=head.hash)


def scene_proof(scene: Scene) -> Proof:
    return prove_escrow(scene.database.engine("fleet_operator"), scene.chain.deployer.client, scene.pinned)


def test_a_release_in_flight_is_listed_and_nothing_remains(scene: Scene) -> None:
    scene.set_threshold(3)
    payment = scene.payment()
    scene.run()
    see_head(scene)
    assert scene_proof(scene).in_transit == []
    scene.submit(payment, scene.sign(payment))
    scene.run()
    see_head(scene)
    assert scene.instruction(payment).state == "broadcast"
    proof = scene_proof(scene)
    assert proof.holds
    receipt = scene.receipt(payment)
    assert {(item.place, item.units) for item in proof.in_transit} == {
        ((scene.chain.token, scene.treasury), -100 * UNIT),
        (("native", scene.treasury), -receipt.fee),
    }
    scene.chain.development.mine(3)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    # The watcher has not judged those blocks yet, but B is the release's own: its entries are not later than B.
    assert scene_proof(scene).in_transit == []
    assert all(asset.equal for asset in scene_proof(scene).assets)


# Deposits and reorganisations ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain() -> Iterator[ChainWorld]:
    with chain_world() as made:
        yield made


def test_a_reorganisation_is_explained_until_the_watcher_took_it_back(chain: ChainWorld, database: Database) -> None:
    watching = WatchingFleet(chain, database, chain.contracts.usdt)

    def proof() -> Proof:
        return prove_escrow(database.engine("fleet_operator"), chain.client, watching.chain)

    expected = watching.payment(100)
    watching.watch()
    sent = watching.pay(expected)
    watching.ask(sent)
    assert proof().in_transit == []  # B is from before the deposit
    watching.watch()
    assert (proof().holds, proof().in_transit) == (True, [])
    chain.chain.reorganise(2)
    chain.forget_nonces()
    assert chain.client.receipt(sent) is None
    watching.block_watch.tick(0)  # the new blocks are scanned, and no look is answered yet
    now = proof()
    assert now.holds
    assert [(item.units, item.transaction_hash) for item in now.in_transit] == [(-100 * UNIT, sent)]
    watching.make_due()
    watching.watch()
    assert (proof().holds, proof().in_transit) == (True, [])
    assert watching.market.balance(expected.payment)["destination"] == 0


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_what_is_under_way_and_fails_on_a_remainder(
    fleet: SweepingFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chain = fleet.chains.chains[0]
    chains = tmp_path / "chains.toml"
    tokens = ", ".join(
        f'{{ symbol = "{one.symbol}", address = "{one.address}", decimals = {one.decimals} }}' for one in chain.tokens
    )
    chains.write_text(
        f'[[chains]]\nid = {CHAIN_ID}\nname = "anvil"\ngenesis_hash = "{chain.genesis_hash}"\n'
        f'rpc_urls = ["{fleet.world.chain.rpc_url}"]\ntreasury = "{fleet.treasury}"\nfee_proxy = "{chain.fee_proxy}"\n'
        f"tokens = [{tokens}]\n"
    )
    configured = load_settings(database_url=fleet.database.url("fleet_operator"), chains_file=chains)
    monkeypatch.setattr(command, "settings", lambda: configured)
    app = typer.Typer()
    app.command()(command.escrow)
    with swept_but_shallow(fleet) as payments:
        listed = CliRunner().invoke(app, [])
        assert listed.exit_code == 0, listed.output
        assert "sweep: mined, not deep enough to be booked" in listed.output
        assert "books equal chain" in listed.output
        fleet.world.chain.set_balance(fleet.address(payments[0]), ETHER)
        failed = CliRunner().invoke(app, ["--json"])
        assert failed.exit_code == 1, failed.output
        [proof] = json.loads(failed.stdout)
        assert not proof["holds"]
        [wrong] = [asset for asset in proof["assets"] if Decimal(asset["remainder"])]
        assert (wrong["address"], wrong["symbol"]) == (fleet.address(payments[0]), "ETH")
        assert Decimal(wrong["on_chain"]) == 1
    refused = CliRunner().invoke(app, ["--at-block", str(10**9)])
    assert refused.exit_code == 2
    assert "above the last judged one" in refused.output
