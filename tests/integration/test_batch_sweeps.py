"""Many destinations swept by one transaction, on a real chain with real tokens: one bad one stops no other."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from uuid import UUID

import pytest
from eth_abi.abi import decode

from custody.chain import erc20
from custody.destinations.forwarders import forwarder_path
from custody.destinations.keys.set_code import DELEGATION_PREFIX
from custody.destinations.sweeps.sending import REBROADCAST_AFTER_BLOCKS
from custody.settings.chains import NATIVE
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import ONLY_LONG, Counts, declared, sampled
from tests.sweeping import Crash, Fuse, SweepingFleet, World, call, manual_mining, sweeping_world
from workers.demo.contracts import mint
from workers.demo.development_chain import ETHER

UNIT = 1_000_000
CRASH_STRIDE = declared(1, 70)  # make test-long dies at every place
WAYS = [
    ("eip7702_batch", "usdt"), ("eip7702_batch", "usdc"), ("eip3009_batch", "usdc"), ("create2_forwarder", "usdt"),
]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


def fleet_of(world: World, database: Database, way: tuple[str, str]) -> SweepingFleet:
    strategy, token = way
    return SweepingFleet(world, database, getattr(world.contracts, token), strategy=strategy)


def paid(fleet: SweepingFleet, count: int, units: int = UNIT) -> list[UUID]:
    payments = [fleet.payment(units) for _ in range(count)]
    fleet.pay_all(payments, units)
    return payments


def until_sent(fleet: SweepingFleet) -> None:
    """Rounds until the batch's transaction is with the node; no block is made."""
    while not fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE state = 'broadcast'"):
        assert fleet.round() > 0, fleet.jobs()


@pytest.mark.parametrize("way", sampled(WAYS), ids="-".join)
def test_many_destinations_go_with_one_transaction(world: World, database: Database, way: tuple[str, str]):
    fleet = fleet_of(world, database, way)
    payments = paid(fleet, 5)
    fleet.run()
    assert fleet.jobs() == [("swept", None)] * 5
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    assert world.client.token_balance(fleet.token, fleet.treasury) == 5 * UNIT
    [row] = fleet.market.execute("SELECT sender, signed_bytes, fee_wei, subject_id FROM fleet.chain_transactions")
    assert (row.sender, bytes(row.signed_bytes)[0]) == (fleet.payer, 4 if way[0] == "eip7702_batch" else 2)
    [batch] = fleet.market.execute("SELECT id, state FROM fleet.sweep_batches")
    assert (batch.id, batch.state) == (row.subject_id, "settled")
    # L6: one entry for the transaction, split over the payments to the wei.
    shares = fleet.market.execute("SELECT payment_id, wei FROM fleet.gas_shares")
    assert {share.payment_id for share in shares} == set(payments)
    assert sum(share.wei for share in shares) == row.fee_wei
    assert max(share.wei for share in shares) - min(share.wei for share in shares) <= 1
    fleet.assert_books_equal_chain()
    assert fleet.round() == 0


def test_a_forwarder_is_made_once_and_flushed_again(world: World, database: Database):
    """R20: no key is asked, and none could sign: the batcher makes each address and empties it in one transaction."""
    fleet = fleet_of(world, database, ("create2_forwarder", "usdt"))
    payments = paid(fleet, 3)
    assert {world.client.code(fleet.address(payment)) for payment in payments} == {b""}
    fleet.run()
    assert {world.client.code(fleet.address(payment)) for payment in payments} == {fleet.contracts.forwarder_code}
    fleet.pay_all(payments, 3 * UNIT)
    fleet.run()
    assert {fleet.destination(payment) for payment in payments} == {("swept", 2, 4 * UNIT, None)}
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 2
    assert world.client.token_balance(fleet.token, fleet.treasury) == 12 * UNIT
    fleet.assert_books_equal_chain()


def test_native_coin_of_forwarders_is_booked_from_their_own_log(world: World, database: Database):
    fleet = SweepingFleet(world, database, NATIVE, strategy="create2_forwarder")
    payments = paid(fleet, 3, ETHER)
    fleet.run()
    fleet.pay_all(payments[:2], 2 * ETHER)
    fleet.run()
    assert {fleet.destination(payment) for payment in payments[:2]} == {("swept", 2, 3 * ETHER, None)}
    assert fleet.destination(payments[2]) == ("swept", 1, ETHER, None)
    assert world.client.balance(fleet.treasury) == 7 * ETHER
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 2
    fleet.assert_books_equal_chain()


def test_a_forwarder_of_another_treasury_or_with_other_code_is_not_called(world: World, database: Database):
    fleet = fleet_of(world, database, ("create2_forwarder", "usdt"))
    payments = paid(fleet, 3)
    other, foreign, good = payments
    fleet.market.execute(
        "UPDATE public.derived_destinations SET derivation_path = :path WHERE address = :a",
        path=forwarder_path(fleet.account, 7_000),
        a=fleet.address(other),
    )
    world.chain._request("anvil_setCode", [fleet.address(foreign), "0x60006000fd"])
    fleet.run()
    assert fleet.destination(good) == ("swept", 1, UNIT, None)
    assert (fleet.destination(foreign)[3] or "").startswith("foreign_code")
    assert fleet.destination(other)[1] == 0
    assert any("other_treasury" in (reason or "") for _, reason in fleet.jobs())


def test_a_delegated_address_needs_no_tuple_and_signs_for_no_token(world: World, database: Database):
    fleet = fleet_of(world, database, ("eip7702_batch", "usdc"))
    payments = paid(fleet, 2)
    fleet.run()
    address = fleet.address(payments[0])
    assert world.client.code(address)[:3] == DELEGATION_PREFIX
    fleet.pay_all(payments, 3 * UNIT)
    fleet.run()
    types = [
        bytes(row.signed_bytes)[0]
        for row in fleet.market.execute("SELECT signed_bytes FROM fleet.chain_transactions ORDER BY nonce")
    ]
    assert types == [4, 2]
    assert {fleet.destination(payment) for payment in payments} == {("swept", 2, 4 * UNIT, None)}
    fleet.assert_books_equal_chain()
    # One method for life: what would sign for USDC is not even tried, its key still transfers.
    [chain] = fleet.chains.chains
    fleet.chains = fleet.chains.model_copy(
        update={"chains": (chain.model_copy(update={"sweep_strategy": "eip3009_batch"}),)}
    )
    fleet.pay_all(payments, UNIT)
    fleet.run()
    assert {row.strategy for row in fleet.market.execute("SELECT strategy FROM fleet.sweep_jobs")} == {
        "eip7702_batch",
        "top_up_transfer",
    }
    assert {fleet.destination(payment)[0] for payment in payments} == {"swept"}
    fleet.assert_books_equal_chain()


@pytest.mark.parametrize("way", sampled([WAYS[0], WAYS[3]]), ids="-".join)
def test_one_bad_of_twenty_leaves_nineteen_swept_in_the_same_transaction(
    world: World, database: Database, way: tuple[str, str]
):
    fleet = fleet_of(world, database, way)
    payments = paid(fleet, 20)
    bad = payments[7]
    with manual_mining(world):
        until_sent(fleet)
        # Blacklisted between the simulation and the block: only the logs can tell.
        blacklist = "addBlackList(address)" if way[1] == "usdt" else "blacklist(address)"
        sent = _called_first(fleet, blacklist, fleet.address(bad))
        world.chain.mine(1)
    world.deployer.wait(sent)
    fleet.run()
    status, sweeps, _, reason = fleet.destination(bad)
    assert (status, sweeps) == ("quarantined", 0)
    assert (reason or "").startswith("transfer_log_differs")
    assert {fleet.destination(payment) for payment in payments if payment != bad} == {("swept", 1, UNIT, None)}
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 1
    assert fleet.market.balance(bad)["destination"] == 1
    fleet.assert_books_equal_chain()
    [dead] = fleet.market.execute("SELECT reason FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert fleet.address(bad) in dead.reason


def test_what_a_simulation_finds_is_left_out_before_anything_is_sent(world: World, database: Database):
    fleet = fleet_of(world, database, ("eip7702_batch", "usdt"))
    payments = paid(fleet, 4)
    blacklisted, drained, foreign, good = payments
    call(world, fleet.token, "addBlackList(address)", fleet.address(blacklisted))
    world.chain.send_as(fleet.address(drained), fleet.token, _transfer_call(world.deployer.address, UNIT))
    world.chain._request("anvil_setCode", [fleet.address(foreign), "0xef0100" + "22" * 20])
    fleet.run()
    reasons = {payment: (fleet.destination(payment)[3] or "").partition(":")[0] for payment in payments}
    assert reasons == {
        blacklisted: "transfer_reverts",
        drained: "drained",
        foreign: "foreign_code",
        good: "",
    }
    assert fleet.destination(good) == ("swept", 1, UNIT, None)
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 1


@ONLY_LONG
def test_a_batch_that_reverts_as_a_whole_is_tried_again_in_halves(world: World, database: Database):
    fleet = fleet_of(world, database, ("eip7702_batch", "usdt"))
    payments = paid(fleet, 4)
    with manual_mining(world):
        until_sent(fleet)
        world.chain.set_automine(enabled=False)
        hash_ = fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions")[0].transaction_hash
        world.chain._request("anvil_dropTransaction", [hash_])
        world.chain.set_automine(enabled=True)
        fleet.name_operators()
    _send_again(fleet)
    fleet.run()
    fleet.name_operators(fleet.payer)
    fleet.run()
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    assert fleet.count("SELECT count(*) FROM fleet.sweep_batches WHERE state = 'dissolved'") == 1
    assert fleet.count("SELECT max(batch_tries) FROM fleet.sweep_jobs") == 1
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE succeeded") == 1
    fleet.assert_books_equal_chain()


def test_a_copied_signature_moves_the_coins_to_the_treasury_and_is_booked_from_its_own_transaction(
    world: World, database: Database
):
    """EIP-3009: a mempool watcher can send what our destination signed; only its transaction has the log."""
    fleet = fleet_of(world, database, ("eip3009_batch", "usdc"))
    payments = paid(fleet, 3)
    with manual_mining(world):
        until_sent(fleet)
        [row] = fleet.market.execute("SELECT transaction_hash, data FROM fleet.chain_transactions")
        world.chain._request("anvil_dropTransaction", [row.transaction_hash])
        stolen = world.deployer.send(fleet.token, _first_inner_call(bytes(row.data)))
        world.chain.mine(1)
    world.deployer.wait(stolen)
    _send_again(fleet)
    fleet.run()
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    hashes = {row.transaction_hash for row in fleet.market.execute("SELECT * FROM public.derived_destination_sweeps")}
    assert hashes == {row.transaction_hash, stolen}
    fleet.assert_books_equal_chain()


def test_more_than_was_judged_goes_along_and_is_booked_to_its_payment(world: World, database: Database):
    fleet = fleet_of(world, database, ("eip7702_batch", "usdt"))
    payments = paid(fleet, 2)
    with manual_mining(world):
        until_sent(fleet)
        late = _minted_first(fleet, payments[0], 5 * UNIT)
        world.chain.mine(1)
    fleet.book(payments[0], world.deployer.wait(late), judged=False)
    fleet.run()
    assert fleet.destination(payments[0]) == ("swept", 1, 6 * UNIT, None)
    balance = fleet.market.balance(payments[0])
    assert (balance["destination"], balance["treasury"], balance["detected"]) == (0, 6, 5)
    fleet.assert_books_equal_chain()


@pytest.mark.parametrize("way", sampled([WAYS[0], WAYS[2], WAYS[3]]), ids="-".join)
def test_a_crash_anywhere_in_a_batch_loses_nothing_and_sweeps_nothing_twice(
    world: World, database: Database, way: tuple[str, str], monkeypatch: pytest.MonkeyPatch, counts: Counts
):
    fleet = fleet_of(world, database, way)
    monkeypatch.setattr(world.client, "send_raw", world.client.send_raw)  # put back at the end
    fuse = Fuse(fleet.database.engine("fleet_sweeps"), world.client)

    def sweep(at: int) -> list[UUID]:
        fuse.at = 0
        payments = paid(fleet, 2)
        fuse.places, fuse.at = 0, at
        try:
            fleet.run()
        except Crash:
            fuse.at = 0
            fleet.expire_leases()
            fleet.run()
        return payments

    sweep(0)
    places = fuse.places
    assert places > 30
    swept = 2
    for at in range(1, places + 1, CRASH_STRIDE):
        payments = sweep(at)
        swept += 2
        for payment in payments:
            assert fleet.destination(payment) == ("swept", 1, UNIT, None), f"after a crash at place {at}"
        assert world.client.token_balance(fleet.token, fleet.treasury) == swept * UNIT
    counts(f"{way[0]}: batches that died at a place of their own", (swept - 2) // 2)
    assert fleet.count("SELECT count(*) FROM public.derived_destination_sweeps") == swept
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE state <> 'final'") == 0
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == swept // 2
    fleet.assert_books_equal_chain()


@pytest.mark.parametrize("way", sampled(WAYS), ids="-".join)
def test_a_batch_whose_block_is_replaced_is_swept_again_once(world: World, database: Database, way: tuple[str, str]):
    """L13, L14: what no deep block holds is not booked, and the nonce's own bytes are all that is ever sent for it."""
    fleet = fleet_of(world, database, way)
    payments = paid(fleet, 3)
    with transaction(database.engine()) as connection:
        set_threshold(connection, 31337, 3, floor_blocks=1, by="test", reason="test")
    fleet.run()
    assert {reason for _, reason in fleet.jobs()} == {"sweep_not_deep"}
    [sent] = fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions")
    assert world.client.receipt(sent.transaction_hash) is not None
    world.chain.reorganise(1)
    assert world.client.receipt(sent.transaction_hash) is None
    assert world.client.token_balance(fleet.token, fleet.treasury) == 0
    fleet.run()
    assert {fleet.destination(payment)[:2] for payment in payments} == {("sweeping", 0)}
    for _ in range(6):
        world.chain.mine(1)
        fleet.run()
    assert fleet.jobs() == [("swept", None)] * 3
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    assert world.client.token_balance(fleet.token, fleet.treasury) == 3 * UNIT
    [row] = fleet.market.execute("SELECT transaction_hash, hashes FROM fleet.chain_transactions")
    assert row.transaction_hash in row.hashes
    fleet.assert_books_equal_chain()


def test_a_token_that_begins_to_keep_a_fee_costs_its_own_destination_alone(world: World, database: Database):
    """L9: what arrived is booked as swept, what the token kept as its cost; a transfer too small for a fee is whole."""
    fleet = fleet_of(world, database, ("eip7702_batch", "usdt"))
    charged = fleet.payment(UNIT)
    fleet.pay(charged, UNIT)
    whole = paid(fleet, 3, 500)
    with manual_mining(world):
        until_sent(fleet)
        # Between the simulation and the block: 19 basis points, of a million 1900 and of 500 nothing.
        sent = _first(fleet, lambda: world.deployer.send(fleet.token, _fee_call(19)))
        world.chain.mine(1)
    world.deployer.wait(sent)
    try:
        fleet.run()
    finally:
        world.deployer.wait(world.deployer.send(fleet.token, _fee_call(0)))
    status, sweeps, _, reason = fleet.destination(charged)
    assert (status, sweeps) == ("quarantined", 1)
    assert (reason or "").startswith("transfer_log_differs")
    assert {fleet.destination(payment) for payment in whole} == {("swept", 1, 500, None)}
    balance = fleet.market.balance(charged)
    kept, arrived = Decimal("0.0019"), Decimal("0.9981")
    assert (balance["destination"], balance["treasury"], balance["transfer_cost"]) == (0, arrived, kept)
    assert world.client.token_balance(fleet.token, fleet.treasury) == UNIT - 1900 + 1500
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 1
    fleet.assert_books_equal_chain()


def _fee_call(basis_points: int) -> bytes:
    """Tether's own switch: how much of each transfer it keeps, at most 49 tokens."""
    return erc20.selector("setParams(uint256,uint256)") + basis_points.to_bytes(32) + (49).to_bytes(32)


def _transfer_call(recipient: str, units: int) -> bytes:
    return erc20.encode_transfer(recipient, units)


def _called_first(fleet: SweepingFleet, signature: str, address: str) -> str:
    """A call of the token's owner that the next block holds before ours: a block goes by price."""
    return _first(
        fleet,
        lambda: fleet.world.deployer.send(
            fleet.token, erc20.selector(signature) + bytes(12) + bytes.fromhex(address[2:])
        ),
    )


def _minted_first(fleet: SweepingFleet, payment: UUID, units: int) -> str:
    return _first(
        fleet,
        lambda: mint(fleet.world.deployer, fleet.world.contracts, fleet.token, fleet.address(payment), units),
    )


def _first(fleet: SweepingFleet, send: Callable[[], str]) -> str:
    [row] = fleet.market.execute(
        "SELECT transaction_hash, signed_bytes FROM fleet.chain_transactions WHERE state = 'broadcast'"
    )
    fleet.world.chain._request("anvil_dropTransaction", [row.transaction_hash])
    sent = send()
    fleet.world.chain.mine(1)
    fleet.world.client.send_raw(bytes(row.signed_bytes))
    return sent


def _send_again(fleet: SweepingFleet) -> None:
    """What a node dropped is sent again once it is old."""
    fleet.world.chain._request("evm_increaseTime", [3600])
    fleet.world.chain.mine(REBROADCAST_AFTER_BLOCKS + 1)
    fleet.run()


def _first_inner_call(data: bytes) -> bytes:
    [calls] = decode(["(address,bool,bytes)[]"], data[4:])
    return calls[0][2]
