"""R5, L5: coins that leave the treasury without us are found in their block, booked, and stop the chain."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from eth_account import Account

from custody.chain import erc20, to_amount
from custody.chain.erc20 import selector
from custody.chain.house_funding import book_funding
from custody.chain.lanes import open_lane, store_signed, take_nonce
from custody.chain.outflows import unauthorised, watch_outflows
from custody.ledger.house import ensure_house_account
from custody.settings.chains import Chains, FormerState, FormerTreasury
from custody.store.engine import transaction
from tests.integration.chain_fixtures import WatchingFleet, units
from tests.losing import LosingFleet
from tests.marketplace import CHAIN_ID
from tests.scanning import scanned
from workers.demo.development_chain import ETHER
from workers.demo.wallet import Wallet


@pytest.fixture
def losing(fleet: WatchingFleet) -> Iterator[LosingFleet]:
    """100 of a payment lie in the treasury, and its native coins are in its house book."""
    made = LosingFleet(fleet)
    expected, _ = made.held()
    made.sweep(expected)
    book_funding(fleet.watcher, fleet.world.client, made.chain, fleet.block_watch.fence, fleet.world.client.head())
    yield made
    made.close()


def watch(losing: LosingFleet, number: int | None = None, **changes: Any) -> int:
    """As the watcher: the newest block, or the one at a height."""
    world = losing.fleet.world
    number = world.client.head().number if number is None else number
    block = replace(scanned(world, losing.chain.treasury, number), **changes)
    losing.fleet.watch()
    with transaction(losing.fleet.watcher) as connection:
        return watch_outflows(connection, losing.chain, block)


def house_entries(losing: LosingFleet) -> list[tuple[str, str, str, str, Decimal]]:
    return [
        tuple(row)
        for row in losing.fleet.market.execute(
            "SELECT token, reason, debit, credit, amount FROM public.funds_ledger_entries WHERE book_id = :id "
            "AND reason <> 'funding' ORDER BY token = 'native', book_seq",
            id=losing.house,
        )
    ]


def steal(losing: LosingFleet, amount: int = 30) -> str:
    thief = Account.create().address
    sent = losing.treasury.send(losing.fleet.token, erc20.encode_transfer(thief, units(amount)))
    losing.treasury.wait(sent)
    return sent


def allowed(losing: LosingFleet) -> Wallet:
    """A spender whom the treasury has approved."""
    spender = losing._wallet(Account.create())
    word = bytes(12) + bytes.fromhex(spender.address[2:])
    call = selector("approve(address,uint256)") + word + units(1000).to_bytes(32, "big")
    losing.treasury.wait(losing.treasury.send(losing.fleet.token, call))
    return spender


def spend(losing: LosingFleet, spender: Wallet, recipient: str, amount: int) -> str:
    words = b"".join(bytes(12) + bytes.fromhex(each[2:]) for each in (losing.chain.treasury, recipient))
    call = selector("transferFrom(address,address,uint256)") + words + units(amount).to_bytes(32, "big")
    sent = spender.send(losing.fleet.token, call)
    spender.wait(sent)
    return sent


def test_stolen_tokens_are_a_loss_of_the_house_and_stop_the_chain(losing: LosingFleet) -> None:
    """The thief has the treasury's key: the tokens, the fee and the nonce are not ours."""
    fleet, token = losing.fleet, losing.fleet.token
    sent = steal(losing)
    fee = fleet.world.client.receipt(sent).fee  # pyright: ignore[reportOptionalMemberAccess]
    assert watch(losing) == 3
    assert house_entries(losing) == [
        (token, "unauthorised", "loss", "overdraft", 30),
        ("native", "unauthorised", "loss", "overdraft", to_amount(fee, 18)),
    ]
    [fact] = [each for each in fleet.facts(sent) if each.token == token]
    assert (fact.direction, fact.live, fact.amount_units, fact.payment_id) == ("outbound", True, units(30), None)
    paused = losing.paused()
    assert paused is not None
    assert paused.startswith("unauthorised: 30000000 units")
    assert sent in losing.dead_work()[str(fact.id)]
    losing.require_books_equal_chain()
    # Once a (transaction, log), however often its block is looked at.
    assert watch(losing) == 0
    fleet.world.chain.mine()
    assert watch(losing) == 0


def test_an_approved_spender_is_no_less_a_thief(losing: LosingFleet) -> None:
    spender = allowed(losing)
    assert watch(losing) == 2  # the approval itself: a nonce, and its fee
    losing.require_books_equal_chain()
    spend(losing, spender, Account.create().address, 40)
    assert watch(losing) == 1
    assert house_entries(losing)[0] == (losing.fleet.token, "unauthorised", "loss", "overdraft", 40)
    losing.require_books_equal_chain()


def test_coins_stolen_into_a_deposit_address_are_both_facts(losing: LosingFleet) -> None:
    """One log, out of the treasury and into a payment: neither hides the other."""
    fleet = losing.fleet
    victim = fleet.payment(40)
    spender = allowed(losing)
    watch(losing)
    sent = spend(losing, spender, victim.destination, 40)
    assert watch(losing) == 1
    fleet.watch(sent)
    assert [one[:2] for one in fleet.entries(victim.payment)] == [("payment_detected", "seen")]
    losing.require_books_equal_chain()


def test_stolen_native_coins_are_value_and_fee(losing: LosingFleet) -> None:
    sent = losing.treasury.send(Account.create().address, value=ETHER // 4, gas=21_000)
    fee = losing.treasury.wait(sent).fee
    assert watch(losing) == 2
    [(token, *movement, amount)] = house_entries(losing)
    assert (token, movement) == ("native", ["unauthorised", "loss", "overdraft"])
    assert amount == to_amount(ETHER // 4 + fee, 18)
    losing.require_books_equal_chain()
    assert watch(losing) == 0
    # Coins that come in later are funding, and no recovery.
    world = losing.fleet.world
    world.chain.set_balance(losing.chain.treasury, world.client.balance(losing.chain.treasury) + 5)
    fence = losing.fleet.block_watch.fence
    assert book_funding(losing.fleet.watcher, world.client, losing.chain, fence, world.client.head()) == 1
    losing.require_books_equal_chain()


def test_what_a_reorganisation_gives_back_is_recovered_and_stolen_again_when_mined_again(losing: LosingFleet) -> None:
    """L1, L5: in another block it is another fact."""
    fleet, world = losing.fleet, losing.fleet.world
    sent = steal(losing)
    raw = world.raw_transaction(sent)
    number = world.client.head().number
    watch(losing)
    losing.reorganise(1)
    assert watch(losing, number) == 2
    assert [(one[1], one[2], one[3]) for one in house_entries(losing)] == [
        ("unauthorised", "loss", "overdraft"),
        ("recovered", "overdraft", "loss"),
    ] * 2
    losing.require_books_equal_chain()
    assert losing.paused() is not None
    losing.reorganise(1, raw)
    assert watch(losing, number) == 2
    facts = [fact for fact in fleet.facts(sent) if fact.token == fleet.token]
    assert [fact.live for fact in facts] == [False, True]
    losing.require_books_equal_chain()


def handed_out(losing: LosingFleet, amount: int = 100) -> Any:
    """The lane of a payout that is with the signer; ours from now on."""
    expected = losing.fleet.market.execute("SELECT payment_id AS id FROM fleet.payment_routes")[0].id
    recipient = Account.create().address
    instruction = losing.fleet.market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        "amount_units, release_epoch, max_total_fee_wei) VALUES (:p, 'refund', :c, :a, :t, :r, :n, :u, 0, :f) RETURNING id",
        p=expected, c=CHAIN_ID, a=losing.chain.treasury, t=losing.fleet.token, r=recipient, n=amount, u=units(amount),
        f=ETHER // 100,
    )[0].id  # fmt: skip
    nonce = losing.fleet.world.client.nonce(losing.chain.treasury)
    with transaction(losing.fleet.database.engine("fleet_releases")) as connection:
        open_lane(connection, CHAIN_ID, losing.chain.treasury, "treasury", nonce)
        return take_nonce(
            connection, chain_id=CHAIN_ID, sender=losing.chain.treasury, purpose="release", subject_id=instruction,
            recipient=losing.fleet.token, value_wei=0, data=erc20.encode_transfer(recipient, units(amount)),
        )  # fmt: skip


@pytest.mark.parametrize("is_stored", [True, False], ids=["sent by us", "sent by the signer himself"])
def test_our_own_payout_is_no_theft(losing: LosingFleet, *, is_stored: bool) -> None:
    """R1: a signer may broadcast the bytes he was given; they are ours all the same."""
    lane = handed_out(losing)
    sent = losing.treasury.send(lane.recipient, lane.data)
    losing.treasury.wait(sent)
    if is_stored:
        with transaction(losing.fleet.database.engine("fleet_releases")) as connection:
            store_signed(connection, lane.id, losing.fleet.world.raw_transaction(sent), sent)
    assert watch(losing) == 0
    assert (house_entries(losing), losing.paused()) == ([], None)


@pytest.mark.parametrize("is_ours", [True, False], ids=["a cancel that was handed out", "one that nobody asked for"])
def test_a_cancel_on_our_nonce_is_ours_once_it_was_handed_out(losing: LosingFleet, *, is_ours: bool) -> None:
    """R1: nothing, from the treasury to itself, sent by the signer himself."""
    lane = handed_out(losing)
    if is_ours:
        losing.fleet.market.execute(
            "INSERT INTO fleet.nonce_digests (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei) "
            "VALUES (:id, 1, 'cancel', '', '', 1)",
            id=lane.subject_id,
        )
    losing.treasury.wait(losing.treasury.send(losing.chain.treasury, gas=21_000))
    found = watch(losing)
    assert (found == 0, losing.paused() is None) == (is_ours, is_ours)


def test_another_transaction_on_our_nonce_is_not_ours(losing: LosingFleet) -> None:
    """The same call with another amount, on the nonce that we gave out."""
    lane = handed_out(losing, 50)
    more = lane.data[:-32] + units(60).to_bytes(32, "big")
    losing.treasury.wait(losing.treasury.send(lane.recipient, more))
    assert watch(losing) >= 2
    assert house_entries(losing)[0] == (losing.fleet.token, "unauthorised", "loss", "overdraft", 60)
    assert losing.paused() is not None


def test_our_bytes_after_their_money_was_given_back_are_not_ours(losing: LosingFleet) -> None:
    lane = handed_out(losing)
    losing.fleet.market.execute("UPDATE fleet.chain_transactions SET state = 'failed'")
    losing.treasury.wait(losing.treasury.send(lane.recipient, lane.data))
    assert watch(losing) == 3
    losing.require_books_equal_chain()


def test_a_nonce_that_no_scanned_block_shows_is_told_once(losing: LosingFleet) -> None:
    handed_out(losing)
    losing.fleet.market.execute("UPDATE fleet.chain_transactions SET state = 'failed'")
    nonce = losing.fleet.world.client.nonce(losing.chain.treasury) + 3
    assert watch(losing, treasury_nonce=nonce) == 2
    assert "never gave it out" in (losing.paused() or "")
    assert watch(losing, treasury_nonce=nonce) == 0


def test_a_block_without_the_treasury_has_no_outflow(losing: LosingFleet) -> None:
    """Deposits, sweeps and what strangers do."""
    fleet = losing.fleet
    expected, sent = losing.held()
    swept = losing.sweep(expected)
    for each in (sent, swept):
        receipt = fleet.world.client.receipt(each)
        assert receipt is not None
        with transaction(fleet.watcher) as connection:
            block = scanned(fleet.world, losing.chain.treasury, receipt.block_number)
            assert unauthorised(connection, losing.chain, block) == []


# A treasury of before a rotation (R22) --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["draining", "compromised", "retired"])
def test_what_leaves_a_former_treasury_is_followed_whatever_its_state(losing: LosingFleet, state: FormerState) -> None:
    world, old = losing.fleet.world, losing.chain.treasury
    new = losing._wallet(Account.create()).address
    former = (FormerTreasury(address=old, state=state),)
    losing.fleet.chains = Chains(
        chains=(losing.chain.model_copy(update={"treasury": new, "former_treasuries": former}),)
    )
    with transaction(losing.fleet.database.engine("fleet_operator")) as connection:
        ensure_house_account(connection, CHAIN_ID, new, "treasury")
    book_funding(losing.fleet.watcher, world.client, losing.chain, losing.fleet.block_watch.fence, world.client.head())
    sent = steal(losing)
    fee = world.client.receipt(sent).fee  # pyright: ignore[reportOptionalMemberAccess]
    number = world.client.head().number
    seen = scanned(world, old, number)
    assert watch(losing, former={old: (seen.treasury_balance, seen.treasury_nonce)}) == 3
    assert house_entries(losing) == [
        (losing.fleet.token, "unauthorised", "loss", "overdraft", 30),
        ("native", "unauthorised", "loss", "overdraft", to_amount(fee, 18)),
    ]
    assert losing.paused() is not None
    losing.require_books_equal_chain()
