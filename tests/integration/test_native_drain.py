"""Native coin is swept to the last wei, and the treasury's own coins give the fee back (L8)."""

import itertools
from collections.abc import Iterator
from uuid import UUID

import pytest

from custody.chain.fee_bids import replaces
from custody.chain.fence import Fence
from custody.chain.house_funding import book_funding
from custody.chain.signed_bytes import SignedTransaction, read_signed
from custody.destinations.sweeps.choosing import Economics
from custody.settings.chains import NATIVE
from tests.conftest import Database
from tests.sweeping import Crash, SweepingFleet, World, manual_mining, sweeping_world
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


# A price that blocks pass by (R1) ---------------------------------------------------------------------------------------

GWEI = 10**9


@pytest.fixture
def stuck(fleet: SweepingFleet) -> Iterator[tuple[SweepingFleet, UUID]]:
    """A drain that is with the node, while the base fee has risen above its price; no block is made by itself."""
    payment = fleet.payment(2 * ETHER)
    fleet.pay(payment, 2 * ETHER)
    chain = fleet.world.chain
    with manual_mining(fleet.world):
        fleet.run()
        assert [state for state, _ in fleet.jobs()] == ["transferring"]
        dear_blocks(fleet, 1)
        yield fleet, payment
        chain._request("anvil_setNextBlockBaseFeePerGas", [hex(GWEI)])


def dear_blocks(fleet: SweepingFleet, blocks: int, gwei: int = 60) -> None:
    """Blocks whose base fee nobody of ours has offered yet."""
    for _ in range(blocks):
        fleet.world.chain._request("anvil_setNextBlockBaseFeePerGas", [hex(gwei * GWEI)])
        fleet.world.chain.mine(1)


def signatures(fleet: SweepingFleet) -> list[SignedTransaction]:
    rows = fleet.market.execute("SELECT signed_bytes FROM fleet.nonce_signatures ORDER BY place")
    return [read_signed(bytes(row.signed_bytes)) for row in rows]


def swept(fleet: SweepingFleet, payment: UUID, mined: SignedTransaction) -> None:
    """It is swept by exactly this signature, to the last wei, and the books say so."""
    assert fleet.destination(payment) == ("swept", 1, 2 * ETHER, None)
    assert fleet.world.client.balance(fleet.address(payment)) == 0
    [row] = fleet.market.execute("SELECT * FROM fleet.chain_transactions")
    assert (row.state, row.transaction_hash, int(row.value_wei)) == ("final", mined.hash, mined.value)
    assert int(row.value_wei + row.fee_wei) == 2 * ETHER
    assert set(row.hashes) == {each.hash for each in signatures(fleet)}
    assert fleet.market.balance(payment)["treasury"] == 2
    fleet.assert_books_equal_chain()


def test_a_drain_that_blocks_pass_by_is_outbid_out_of_what_it_brings(stuck: tuple[SweepingFleet, UUID]) -> None:
    fleet, payment = stuck
    fleet.run()
    assert len(signatures(fleet)) == 1  # its patience is not over
    dear_blocks(fleet, 2)
    fleet.run()
    old, new = signatures(fleet)
    assert (new.chain_id, new.nonce, new.sender, new.to, new.data) == (
        old.chain_id, old.nonce, old.sender, fleet.treasury, b"",
    )  # fmt: skip
    assert replaces(new.bid, old.bid)
    assert new.bid.max_fee >= 60 * GWEI
    # The address is emptied whichever is mined: what the fee takes more, the treasury gets less.
    assert old.value - new.value == new.max_fee_wei - old.max_fee_wei
    assert fleet.world.client.known([new.hash]) == {new.hash}
    fleet.world.chain.mine(1)
    fleet.run()
    swept(fleet, payment, new)


def test_the_first_signature_may_be_mined_after_it_was_outbid_and_is_booked_as_it_was(
    stuck: tuple[SweepingFleet, UUID],
) -> None:
    fleet, payment = stuck
    dear_blocks(fleet, 2)
    fleet.run()
    old, new = signatures(fleet)
    [raw] = fleet.market.execute("SELECT signed_bytes FROM fleet.nonce_signatures ORDER BY place LIMIT 1")
    fleet.world.chain._request("anvil_dropTransaction", [new.hash])
    fleet.world.chain._request("anvil_setNextBlockBaseFeePerGas", [hex(GWEI)])
    fleet.world.client.send_raw(bytes(raw.signed_bytes))
    fleet.world.chain._request("anvil_setNextBlockBaseFeePerGas", [hex(GWEI)])
    fleet.world.chain.mine(1)
    assert fleet.world.client.receipt(old.hash) is not None
    fleet.run()
    swept(fleet, payment, old)


def test_a_drain_is_outbid_again_and_again_until_the_chains_cap(stuck: tuple[SweepingFleet, UUID]) -> None:
    fleet, payment = stuck
    for gwei in (80, 200):
        dear_blocks(fleet, 3, gwei)
        fleet.run()
    found = signatures(fleet)
    assert len(found) == 3
    assert all(replaces(new.bid, old.bid) and new.value < old.value for old, new in itertools.pairwise(found))
    [chain] = fleet.chains.chains
    gas = chain.gas.model_copy(update={"max_fee_per_gas_wei": found[-1].bid.max_fee})
    fleet.chains = fleet.chains.model_copy(update={"chains": (chain.model_copy(update={"gas": gas}),)})
    dear_blocks(fleet, 3, 400)
    fleet.run()
    assert len(signatures(fleet)) == 3
    assert (fleet.jobs()[0][1] or "").startswith("fees_too_high: ")
    fleet.chains = fleet.chains.model_copy(update={"chains": (chain,)})
    dear_blocks(fleet, 1, 1)
    fleet.run()
    dear_blocks(fleet, 1, 1)
    fleet.run()
    [row] = fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions")
    [mined] = [each for each in signatures(fleet) if each.hash == row.transaction_hash]
    swept(fleet, payment, mined)


def test_a_death_between_signing_anew_and_sending_loses_no_signature(
    stuck: tuple[SweepingFleet, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, payment = stuck
    dear_blocks(fleet, 2)

    def dies(_raw: bytes) -> str:
        raise Crash("before it is sent")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.world.client, "send_raw", dies)
        with pytest.raises(Crash):
            fleet.run()
    fleet.expire_leases()
    old, new = signatures(fleet)
    fleet.run()
    assert signatures(fleet) == [old, new]
    assert fleet.world.client.known([new.hash]) == {new.hash}
    fleet.world.chain.mine(1)
    fleet.run()
    swept(fleet, payment, new)
