"""L5: what the books do when the chain takes back money that has moved on. On a real chain and a real database."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from custody.chain.detection import Sighting, detect
from custody.destinations.sweeps.booked import facts_at
from custody.ledger import BookTooSmall
from custody.releases.gate import release_gate
from custody.store.engine import transaction
from tests.integration.chain_fixtures import Died, WatchingFleet, dying_at, snapshot
from tests.losing import LosingFleet

LOSS = ("adjustment", "reorg_loss", "loss", "overdraft", 100)
LOST_AGAIN = ("adjustment", "reorg", "loss", "overdraft", 100)
RECOVERED = ("adjustment", "recovered", "overdraft", "loss", 100)


@pytest.fixture
def losing(fleet: WatchingFleet) -> Iterator[LosingFleet]:
    made = LosingFleet(fleet)
    yield made
    made.close()


def overdraft_address(losing: LosingFleet) -> str:
    [row] = losing.fleet.market.execute(
        "SELECT credit_address FROM public.funds_ledger_entries WHERE reason = 'reorg_loss'"
    )
    return row.credit_address


def test_a_swept_deposit_that_vanishes_is_a_loss_at_the_treasury(losing: LosingFleet) -> None:
    """L5, L22: its sweep is gone with it, so the treasury has less than the books say."""
    fleet = losing.fleet
    expected, sent = losing.held()
    swept = losing.sweep(expected)
    losing.require_books_equal_chain()
    losing.reorganise(2)
    losing.see()
    assert fleet.entries(expected.payment)[-1] == LOSS
    assert [one[1] for one in fleet.entries(expected.payment)] == ["seen", "deep", "sweep", "reorg_loss"]
    [fact] = fleet.facts(sent)
    assert not fact.live
    assert overdraft_address(losing) == losing.chain.treasury
    losing.require_books_equal_chain()
    assert losing.paused() is not None
    assert fleet.market.state(expected.payment) == ("confirmed", "funded")
    reasons = losing.dead_work()
    assert "its loss is booked" in reasons[str(fact.id)]
    assert swept in reasons[str(fleet.facts(swept)[0].id)]  # the sweep stays an entry, and people look at it (L14)
    with transaction(fleet.database.engine("fleet_releases")) as connection:
        stops = {stop.reason for stop in release_gate(connection, expected.payment, fleet.chains).stops}
    assert {"coins_lost", "chain_paused"} <= stops  # L3: paying it out would spend other payments' coins
    # Nothing more is booked however often it is looked at (L1).
    losing.see()
    assert fleet.entries(expected.payment)[-1] == LOSS
    assert fleet.look(sent).state == "due"


def test_a_promised_deposit_that_vanishes_is_promised_no_second_time(losing: LosingFleet) -> None:
    """L3, L18: the approval that was given is judged again, and no new promise spends other payments' coins."""
    fleet = losing.fleet
    expected, _ = losing.held()
    losing.sweep(expected)
    instruction = losing.promise(expected)
    before = fleet.market.balance(expected.payment)["release_epoch"]
    losing.reorganise(2)
    losing.see()
    losing.require_books_equal_chain()
    balance = fleet.market.balance(expected.payment)
    assert (balance["refunding"], balance["overdraft"], balance["loss"]) == (100, 100, 100)
    assert balance["release_epoch"] == before + 1
    losing.post(
        "fleet_releases", expected, "refund", "void", "refunding", "held", key=f"release:{instruction}:void:1",
        instruction_id=instruction,
    )  # fmt: skip
    with pytest.raises(BookTooSmall, match="lost coins"):
        losing.post(
            "fleet_releases", expected, "refund", "reserve", "held", "refunding", key=f"release:{instruction}:reserve:2",
            instruction_id=instruction,
        )  # fmt: skip


def test_a_deposit_that_was_paid_out_vanishes(losing: LosingFleet) -> None:
    """The payout was mined again: it spent another payment's coins, and the treasury is short of them."""
    fleet = losing.fleet
    other, _ = losing.held()
    losing.sweep(other)
    expected, _ = losing.held()
    losing.sweep(expected)
    paid = losing.pay_out(expected, losing.promise(expected))
    losing.require_books_equal_chain()
    losing.reorganise(3, fleet.world.raw_transaction(paid))
    losing.see()
    assert fleet.world.client.token_balance(fleet.token, losing.chain.treasury) == 0
    balance = fleet.market.balance(expected.payment)
    assert (balance["treasury"], balance["loss"], balance["overdraft"]) == (0, 100, 100)
    assert fleet.market.balance(other.payment)["treasury"] == 100
    losing.require_books_equal_chain()


def test_a_disputed_deposit_that_vanishes_is_a_loss_at_its_own_address(losing: LosingFleet) -> None:
    """Its hold cannot be reversed since its money is disputed (L4); its coins never left the deposit address."""
    fleet = losing.fleet
    expected, _ = losing.held()
    losing.post("fleet_releases", expected, "dispute_hold", "opened", "held", "disputed", key="dispute:1:opened:1")
    losing.reorganise(1)
    losing.see()
    assert fleet.entries(expected.payment)[-1] == LOSS
    assert overdraft_address(losing) == expected.destination
    losing.require_books_equal_chain()


def test_what_comes_back_takes_the_loss_back_and_is_counted_once(losing: LosingFleet) -> None:
    """L1, L5: the same transaction in another block; then a second reorganisation, and back once more."""
    fleet, world = losing.fleet, losing.fleet.world
    expected, sent = losing.held()
    swept = losing.sweep(expected)
    raw = [world.raw_transaction(sent), world.raw_transaction(swept)]
    losing.reorganise(2)
    losing.see()
    for incarnation in (2, 3):
        for each in raw:
            world.buyer.wait(world.client.send_raw(each))
        losing.see()
        assert fleet.entries(expected.payment)[-1] == RECOVERED
        facts = fleet.facts(sent)
        assert [fact.live for fact in facts] == [False] * (incarnation - 1) + [True]
        assert facts[-1].judged_at is not None
        balance = fleet.market.balance(expected.payment)
        assert (balance["treasury"], balance["held"], balance["loss"], balance["overdraft"]) == (100, 100, 0, 0)
        losing.require_books_equal_chain()
        assert "came back" in losing.dead_work()[str(facts[-2].id)]
        assert fleet.hold() == 0
        if incarnation == 2:
            losing.reorganise(2)
            losing.see()
            assert fleet.entries(expected.payment)[-1] == LOST_AGAIN
            losing.require_books_equal_chain()
    assert fleet.market.state(expected.payment) == ("confirmed", "funded")


def test_a_deposit_that_only_changed_its_block_is_lost_and_found_in_one_look(losing: LosingFleet) -> None:
    fleet, world = losing.fleet, losing.fleet.world
    expected, sent = losing.held()
    swept = losing.sweep(expected)
    raw = [world.raw_transaction(sent), world.raw_transaction(swept)]
    losing.reorganise(2, raw[0])
    world.buyer.wait(world.client.send_raw(raw[1]))
    losing.see()
    assert fleet.entries(expected.payment)[-2:] == [LOSS, RECOVERED]
    losing.require_books_equal_chain()


def test_an_unswept_deposit_of_the_same_payment_is_not_taken_for_a_lost_one(losing: LosingFleet) -> None:
    """Σ legs of each fact stay its amount (L2), and what is left to sweep is what the chain has (L11)."""
    fleet = losing.fleet
    expected, _ = losing.held()
    losing.sweep(expected)
    losing.reorganise(2)
    losing.see()
    more = fleet.pay(expected, 40)
    fleet.watch(more)
    losing.require_books_equal_chain()
    [destination] = fleet.market.execute(
        "SELECT id FROM public.derived_destinations WHERE address = :a", a=expected.destination
    )
    with transaction(fleet.database.engine("fleet_sweeps")) as connection:
        left = facts_at(
            connection, destination_id=destination.id, chain_id=31337, token=fleet.token,
            address=expected.destination, decimals=6,
        )  # fmt: skip
    assert sum(fact.units for fact in left) == 40_000_000


def test_a_crash_between_any_two_steps_of_a_loss_leaves_nothing_half_done(losing: LosingFleet) -> None:
    fleet = losing.fleet
    expected, sent = losing.held()
    losing.sweep(expected)
    losing.reorganise(2)
    found = fleet.world.client.receipts_and_headers([sent])
    headers = {**found.headers, **fleet.world.client.headers([fact.block_number for fact in fleet.facts(sent)])}
    sighting = Sighting(sent, found.canonical(sent), found.head, headers)
    before = snapshot(fleet.database)
    number = 0
    while True:
        number += 1
        try:
            with dying_at(fleet.watcher, number), transaction(fleet.watcher) as connection:
                detect(connection, losing.chain, sighting)
        except Died:
            assert snapshot(fleet.database) == before
            continue
        break
    assert number > 10
    assert fleet.entries(expected.payment)[-1] == LOSS
    assert losing.paused() is not None
    assert fleet.market.balance(expected.payment)["overdraft"] == Decimal(100)
