"""Holding on a real chain and a real database: depth, the split of L7, and the evidence that is kept."""

from decimal import Decimal
from uuid import UUID

import pytest
import structlog

from custody.chain import BlockHeader
from custody.chain.nodes import why_stale
from custody.payments.judging import Seen, judge
from custody.payments.waiting import waiting
from custody.settings.chains import Chain
from custody.settings.thresholds import newest_threshold, set_threshold
from custody.store.engine import transaction
from tests.integration.chain_fixtures import ChainWorld, Died, Expected, WatchingFleet, dying_at, snapshot, units
from tests.marketplace import CHAIN_ID

HOLD = ("hold", "deep", "detected", "held")
SEEN = ("payment_detected", "seen", "destination", "detected")


def suspense(reason: str) -> tuple[str, str, str, str]:
    return ("adjustment", reason, "detected", "suspense")


def pay_and_hold(fleet: WatchingFleet, payment: Expected, amount: int) -> None:
    fleet.watch(fleet.pay(payment, amount))
    assert fleet.hold() == 1


def set_to(fleet: WatchingFleet, blocks: int) -> UUID:
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        return set_threshold(
            connection, CHAIN_ID, blocks, floor_blocks=1, by="a person", reason="a test of depth"
        ).history_id


def test_an_exact_payment_is_funded_and_says_why(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    pay_and_hold(fleet, payment, 100)
    assert fleet.entries(payment.payment) == [(*SEEN, 100), (*HOLD, 100)]
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    [row] = fleet.market.execute(
        "SELECT e.metadata, f.block_hash, f.block_number, f.judged_at FROM public.funds_ledger_entries e "
        "JOIN fleet.chain_facts f ON f.id = e.fact_id WHERE e.entry_type = 'hold'"
    )
    head = fleet.world.client.head()
    assert row.metadata == {
        "threshold": 1,
        "history_id": None,
        "head_number": head.number,
        "head_hash": head.hash,
        "nodes": 1,
        "block_number": row.block_number,
        "block_hash": row.block_hash,
        "confirmations": 1,
        "received": "100.000000",
        "due": "100.000000000000000000",
    }
    assert row.judged_at is not None
    [shown] = fleet.market.execute("SELECT confirmations FROM public.payments WHERE id = :id", id=payment.payment)
    assert shown.confirmations == 1
    assert fleet.hold() == 0
    queues = fleet.market.execute("SELECT DISTINCT queue FROM fleet.outbox")
    assert {row.queue for row in queues} == {"confirmations", "mirror", "sweeps"}


def test_a_part_and_its_top_up(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    pay_and_hold(fleet, payment, 40)
    assert fleet.market.state(payment.payment) == ("processing", "partial")
    fleet.watch(fleet.transfer(payment, 59))  # without a reference: the one open payment's
    fleet.hold()
    assert fleet.market.state(payment.payment) == ("processing", "partial")
    pay_and_hold(fleet, payment, 5)
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    assert fleet.entries(payment.payment)[-2:] == [(*HOLD, 1), (*suspense("surplus"), 4)]
    balance = fleet.market.balance(payment.payment)
    assert (balance["destination"], balance["detected"], balance["held"], balance["suspense"]) == (104, 0, 100, 4)


def test_several_transfers_judged_together_are_split_oldest_first(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment, 70), fleet.pay(payment, 70), fleet.pay(payment, 70))
    assert fleet.hold() == 3
    assert fleet.entries(payment.payment)[3:] == [
        (*HOLD, 70),
        (*HOLD, 30),
        (*suspense("surplus"), 40),
        (*suspense("surplus"), 70),
    ]


def test_what_was_held_and_promised_is_not_due_again(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    pay_and_hold(fleet, payment, 100)
    fleet.market.execute(
        "UPDATE fleet.ledger_balances SET held = 0, releasing = 100, treasury = 100, destination = 0 "
        "WHERE book_id = :id",
        id=payment.payment,
    )
    pay_and_hold(fleet, payment, 10)
    assert fleet.entries(payment.payment)[-1] == (*suspense("surplus"), 10)


def test_a_hold_that_was_reversed_is_due_again(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    pay_and_hold(fleet, payment, 60)
    pay_and_hold(fleet, payment, 60)
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    fleet.watch()
    fleet.watch()
    assert fleet.market.state(payment.payment) == ("processing", "partial")
    pay_and_hold(fleet, payment, 50)
    assert fleet.entries(payment.payment)[-2:] == [(*HOLD, 40), (*suspense("surplus"), 10)]
    assert fleet.books_equal_chain()


def test_money_for_a_closed_payment_is_late(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.market.execute(
        "UPDATE public.payments SET status = 'cancelled', escrow_state = 'cancelled' WHERE id = :id",
        id=payment.payment,
    )
    pay_and_hold(fleet, payment, 100)
    assert fleet.entries(payment.payment) == [(*SEEN, 100), (*suspense("late"), 100)]
    assert fleet.market.state(payment.payment) == ("cancelled", "cancelled")


def test_the_wrong_token_pays_nothing(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment, token=fleet.world.contracts.usdt))
    assert fleet.hold() == 1
    assert fleet.entries(payment.payment) == [(*SEEN, 100), (*suspense("wrong_token"), 100)]
    assert fleet.market.state(payment.payment) == ("pending", None)
    pay_and_hold(fleet, payment, 100)
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")


def test_a_guess_is_not_held(fleet: WatchingFleet) -> None:
    first = fleet.payment()
    second = fleet.another_on(first)
    fleet.watch(fleet.transfer(first, 100))
    assert fleet.hold() == 1
    assert fleet.entries(second.payment) == [(*SEEN, 100), (*suspense("surplus"), 100)]
    assert fleet.market.state(second.payment) == ("pending", None)
    [row] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE reason = 'surplus'")
    assert row.metadata["attribution"] == "newest"


def test_a_token_that_keeps_a_fee_leaves_the_payment_partial(watched_world: ChainWorld, fleet: WatchingFleet) -> None:
    fees = WatchingFleet(watched_world, fleet.database, watched_world.fee_token)
    payment = fees.payment(1000)
    fees.watch(fees.pay(payment))
    assert fees.hold() == 1
    assert fees.entries(payment.payment)[-1] == (*HOLD, Decimal("998.1"))
    assert fees.market.state(payment.payment) == ("processing", "partial")


def test_while_a_dispute_is_open_money_goes_to_disputed(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment))
    fleet.market.set_dispute(payment.payment, 1)
    assert fleet.hold() == 1
    assert fleet.entries(payment.payment)[-1] == ("hold", "deep", "detected", "disputed", 100)
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")


def test_a_raised_threshold_binds_at_once_and_is_named(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment))
    history_id = set_to(fleet, 3)
    assert fleet.hold() == 0
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        [wait] = waiting(connection, payment.payment)
        [deeper] = waiting(connection, payment.payment, head=wait.block_number + 1)
    assert (wait.confirmations, wait.threshold.blocks, wait.blocks_missing) == (1, 3, 2)
    assert (deeper.confirmations, deeper.blocks_missing, deeper.threshold.history_id) == (2, 1, history_id)
    fleet.world.chain.mine()
    fleet.watch()
    assert fleet.hold() == 0
    fleet.world.chain.mine()
    fleet.watch()
    assert fleet.hold() == 1
    [row] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE entry_type = 'hold'")
    assert (row.metadata["threshold"], row.metadata["history_id"]) == (3, str(history_id))
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        assert waiting(connection, payment.payment) == []
        newest = newest_threshold(connection, CHAIN_ID)
    assert newest is not None
    assert newest.history_id == history_id


def test_a_lowered_threshold_binds_at_once(fleet: WatchingFleet) -> None:
    set_to(fleet, 50)
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment))
    assert fleet.hold() == 0
    set_to(fleet, 1)
    assert fleet.hold() == 1


def test_a_block_that_vanished_is_not_held_but_looked_at_again(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    fleet.watch(sent)
    assert fleet.look(sent).state == "seen"
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    assert fleet.hold() == 0
    look = fleet.look(sent)
    assert (look.state, look.requested_by) == ("due", "test")
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]


def test_a_paused_chain_holds_nothing(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment))
    fleet.market.execute("UPDATE fleet.chain_cursors SET paused_reason = 'people decide', paused_at = now()")
    with structlog.testing.capture_logs() as logs:
        assert fleet.hold() == 0
    assert [entry["event"] for entry in logs] == ["holds_wait"]
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        [wait] = waiting(connection, payment.payment)
    assert wait.paused_reason == "people decide"
    fleet.market.execute("UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL")
    assert fleet.hold() == 1


def test_an_old_head_says_nothing_except_on_a_development_chain(fleet: WatchingFleet) -> None:
    now = 1_800_000_000
    real = Chain.model_validate({**fleet.chain.model_dump(), "id": 56, "max_head_age_seconds": 120})

    def head(timestamp: int) -> BlockHeader:
        return BlockHeader(1, "0x" + "11" * 32, "0x" + "22" * 32, timestamp)

    assert why_stale(real, head(now - 120), now) is None
    assert "121 s old" in (why_stale(real, head(now - 121), now) or "")
    assert "in the future" in (why_stale(real, head(now + 61), now) or "")
    assert why_stale(fleet.chain, head(0), now) is None


def test_a_payment_that_cannot_be_held_is_shown_and_stops_no_other(fleet: WatchingFleet) -> None:
    broken, whole = fleet.payment(), fleet.payment()
    fleet.watch(fleet.pay(broken), fleet.pay(whole))
    fleet.market.execute(
        "UPDATE fleet.ledger_balances SET detected = 0, destination = 0 WHERE book_id = :id", id=broken.payment
    )
    assert fleet.hold() == 1
    assert fleet.market.state(whole.payment) == ("confirmed", "funded")
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work")
    assert (dead.queue, dead.payment_id, dead.resolved_at) == ("confirmations", broken.payment, None)
    assert "BookTooSmall" in dead.reason
    fleet.market.execute(
        "UPDATE fleet.ledger_balances SET detected = 100, destination = 100 WHERE book_id = :id", id=broken.payment
    )
    assert fleet.hold() == 1
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work")
    assert dead.resolved_by == "confirmations"


def test_a_crash_between_any_two_steps_leaves_nothing_half_done(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment, 130)
    fleet.watch(sent)
    [fact] = fleet.facts(sent)
    head = fleet.world.client.head()
    before = snapshot(fleet.database)
    number = 0
    while True:
        number += 1
        try:
            with dying_at(fleet.confirmations, number), transaction(fleet.confirmations) as connection:
                judge(connection, CHAIN_ID, {fact.id: Seen(head, 1)})
        except Died:
            assert snapshot(fleet.database) == before
            continue
        break
    assert number > 8
    assert fleet.entries(payment.payment)[1:] == [(*HOLD, 100), (*suspense("surplus"), 30)]
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")


@pytest.mark.parametrize("amount", [Decimal("0.000001"), Decimal("99.999999"), Decimal("100.000001")])
def test_the_smallest_unit_counts(fleet: WatchingFleet, amount: Decimal) -> None:
    payment = fleet.payment()
    sent = fleet.pay_units(payment, units(amount))
    fleet.watch(sent)
    fleet.hold()
    held = min(amount, Decimal(100))
    balance = fleet.market.balance(payment.payment)
    assert (balance["held"], balance["suspense"]) == (held, amount - held)
    assert fleet.market.state(payment.payment)[1] == ("funded" if amount >= 100 else "partial")
