"""R23: several payments of one seller are paid by one transfer, each in its own books; taken apart before hand-out, ended
as a whole after it."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from custody.releases import rows
from custody.releases.grouping import Grouping
from custody.releases.requests import ask
from custody.store.engine import transaction
from custody.trezor import UnsignedTransaction, decode_erc20_transfer
from tests.counts import ONLY_LONG
from tests.dispute_scene import sign_waiting
from tests.release_scene import AMOUNT, UNITS, Scene


def three_of_one_seller(scene: Scene) -> list[UUID]:
    first = scene.payment()
    return [first, scene.payment(seller_of=first), scene.payment(seller_of=first)]


def groups(scene: Scene) -> list[Any]:
    return scene.market.execute("SELECT * FROM fleet.release_instructions WHERE payment_id IS NULL ORDER BY created_at")


def states(scene: Scene, payments: list[UUID]) -> list[str]:
    return [scene.instruction(each).state for each in payments]


def ask_for(scene: Scene, instruction: UUID, kind: Any = "cancel") -> None:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        ask(connection, instruction, kind, reason="wrong seller", by="ada")


def final_entries(scene: Scene) -> list[Any]:
    return scene.market.execute(
        "SELECT e.payment_id, e.amount, e.idempotency_key, e.fact_id, f.amount_units FROM public.funds_ledger_entries e "
        "JOIN fleet.chain_facts f ON f.id = e.fact_id WHERE e.reason = 'final' ORDER BY e.payment_id"
    )


def test_three_payments_of_one_seller_are_one_transfer_and_three_pairs_of_entries(scene: Scene) -> None:
    payments = three_of_one_seller(scene)
    scene.run()
    other = scene.payment()
    scene.run()
    [group] = groups(scene)
    assert {scene.instruction(each).group_id for each in payments} == {group.id}
    assert scene.instruction(other).group_id is None
    assert (group.amount, group.amount_units, group.state) == (3 * AMOUNT, 3 * UNITS, "handed_out")
    assert states(scene, payments) == ["handed_out"] * 3
    unsigned = UnsignedTransaction.from_signing_bytes(bytes(group.unsigned_bytes))
    assert decode_erc20_transfer(unsigned.data) == (group.recipient, 3 * UNITS)
    while sign_waiting(scene):
        scene.run()
    assert states(scene, [*payments, other]) == ["final"] * 4
    assert scene.paid_to(payments[0]) == 3 * UNITS
    for each in payments:
        assert scene.release_entries(each) == [("reserve", AMOUNT), ("final", AMOUNT)]
        assert scene.market.state(each) == ("completed", "released")
    mine = [row for row in final_entries(scene) if row.payment_id in payments]
    assert [(row.amount, row.amount_units) for row in mine] == [(AMOUNT, 3 * UNITS)] * 3
    assert len({row.fact_id for row in mine}) == 1
    assert {row.idempotency_key for row in mine} == {
        f"release:{scene.instruction(each).id}:final:1" for each in payments
    }
    scene.require_books_equal_chain()
    assert scene.run() == 0


def test_a_maximum_of_one_pays_each_by_itself_and_a_group_never_outgrows_it(scene: Scene) -> None:
    scene.step.grouping = Grouping(maximum=1)
    payments = three_of_one_seller(scene)
    scene.run()
    assert groups(scene) == []
    scene.step.grouping = Grouping(maximum=2)
    more = [scene.payment(seller_of=payments[0]) for _ in range(2)]
    scene.run()
    # Of five one is handed out alone; the other four wait for it as two groups of two.
    assert [(each.amount, each.state) for each in groups(scene)] == [(2 * AMOUNT, "ready")] * 2
    assert sorted(states(scene, [*payments, *more])) == ["handed_out", *["ready"] * 4]


def test_a_dispute_before_hand_out_takes_the_group_apart_and_the_others_are_paid_together(scene: Scene) -> None:
    blocking = scene.payment()
    scene.run()
    payments = three_of_one_seller(scene)
    scene.run()
    [group] = groups(scene)
    assert group.state == "ready"
    scene.open_dispute(payments[1])
    scene.run()
    before, after = groups(scene)
    assert (before.id, before.state) == (group.id, "expired")
    assert before.held_reason.startswith("taken_apart: dispute ")
    assert (after.state, after.amount) == ("ready", 2 * AMOUNT)
    assert scene.instruction(payments[1]).state == "expired"
    assert scene.market.balance(payments[1])["disputed"] == AMOUNT
    while sign_waiting(scene):
        scene.run()
    assert states(scene, [blocking, payments[0], payments[2]]) == ["final"] * 3
    assert scene.paid_to(payments[0]) == 2 * UNITS
    scene.require_books_equal_chain()


def test_a_dispute_after_hand_out_cancels_the_whole_group_and_gives_back_all_of_it(scene: Scene) -> None:
    payments = three_of_one_seller(scene)
    scene.run()
    scene.open_dispute(payments[2])
    scene.run()
    [group] = groups(scene)
    assert group.state == "cancelling"
    assert scene.market.balance(payments[0])["releasing"] == AMOUNT  # reserved until the nonce is spent (R1)
    sign_waiting(scene)
    scene.run()
    assert scene.instruction_row(group.id).state == "cancelled"
    assert states(scene, payments) == ["cancelled"] * 3
    assert [scene.market.balance(each)["held"] for each in payments] == [AMOUNT, AMOUNT, 0]
    assert scene.market.balance(payments[2])["disputed"] == AMOUNT
    for each in payments:
        assert scene.release_entries(each) == [("reserve", AMOUNT), ("void", AMOUNT)]
    scene.require_books_equal_chain()


def test_one_member_is_cancelled_alone_before_hand_out_and_with_all_of_them_after_it(scene: Scene) -> None:
    blocking = scene.payment()
    scene.run()
    payments = three_of_one_seller(scene)
    scene.run()
    ask_for(scene, scene.instruction(payments[0]).id)
    scene.run()
    assert states(scene, payments) == ["expired", "ready", "ready"]
    scene.submit(blocking, scene.sign(blocking))
    scene.run()
    group = scene.group(payments[1])
    assert group.state == "handed_out"
    ask_for(scene, scene.instruction(payments[1]).id)
    scene.run()
    scene.run()
    assert scene.instruction_row(group.id).state == "cancelling"
    assert [
        (row.state, row.answer) for row in scene.market.execute("SELECT * FROM fleet.release_requests ORDER BY id")
    ][1] == ("done", f"it is paid with others by one transaction: asked of its group {group.id}.")


@ONLY_LONG
def test_one_that_the_marketplace_stops_waits_alone_and_no_other_for_it(scene: Scene) -> None:
    blocking = scene.payment()
    scene.run()
    payments = three_of_one_seller(scene)
    scene.run()
    scene.set_request(payments[0], "refunded")  # the marketplace stops it, without a dispute
    while sign_waiting(scene):
        scene.run()
    assert states(scene, [blocking, *payments[1:]]) == ["final"] * 3
    alone = scene.instruction(payments[0])
    assert (alone.state, alone.alone, alone.group_id) == ("ready", True, None)
    assert "the purchase request is refunded" in alone.held_reason


def test_what_touches_the_book_of_one_has_the_group_judged_again_at_its_new_epoch(scene: Scene) -> None:
    blocking = scene.payment()
    scene.run()
    payments = three_of_one_seller(scene)
    scene.run()
    group = scene.group(payments[0])
    scene.market.execute(
        "UPDATE fleet.ledger_balances SET release_epoch = release_epoch + 1 WHERE book_id = :id", id=payments[1]
    )
    scene.submit(blocking, scene.sign(blocking))
    scene.run()
    assert scene.instruction_row(group.id).state == "handed_out"
    with transaction(scene.database.engine("fleet_releases")) as connection:
        read = rows.lock(connection, group.id)
    epochs = {
        row.book_id: row.release_epoch
        for row in scene.market.execute("SELECT book_id, release_epoch FROM fleet.ledger_balances")
    }
    assert {each.payment_id: each.release_epoch for each in read.parts} == {each: epochs[each] for each in payments}


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE fleet.release_instructions SET amount_units = amount_units + 1 WHERE id = :group",
        "UPDATE fleet.release_instructions SET amount_units = amount_units - 1 WHERE id = :member",
        "UPDATE fleet.release_instructions SET recipient = lower(recipient) WHERE id = :member",
        "UPDATE fleet.release_instructions SET state = 'final' WHERE id = :member",
        "UPDATE fleet.release_instructions SET group_id = NULL WHERE id = :member",
        "UPDATE fleet.release_instructions SET group_id = :member WHERE id = :other",
        "UPDATE fleet.release_instructions SET payment_id = NULL WHERE id = :other",
    ],
)
def test_the_database_refuses_a_group_that_is_not_its_members(scene: Scene, tampering: str) -> None:
    payments = three_of_one_seller(scene)
    scene.run()
    first, second, _ = payments
    with pytest.raises(IntegrityError):
        scene.market.execute(
            tampering,
            **{
                name: value
                for name, value in {
                    "group": scene.instruction(first).group_id,
                    "member": scene.instruction(first).id,
                    "other": scene.instruction(second).id,
                }.items()
                if f":{name}" in tampering
            },
        )


def test_a_group_is_approved_once_for_its_sum_and_takes_nobody_after_the_first_approval(approved_scene: Scene) -> None:
    scene = approved_scene
    first = scene.payment()
    scene.run()
    alone = scene.instruction(first)
    assert (alone.state, alone.intent_hash is not None) == ("awaiting_approval", True)
    second = scene.payment(seller_of=first)
    scene.run()
    group = scene.group(first)
    assert (group.state, group.amount) == ("awaiting_approval", 2 * AMOUNT)
    assert scene.instruction(first).intent_hash is None  # nobody approves it by itself any more
    small = scene.payment(seller_of=first, units=10_000_000)
    scene.run()
    grown = scene.group(small)
    assert (grown.id, grown.amount_units) == (group.id, 2 * UNITS + 10_000_000)
    assert grown.intent_hash != group.intent_hash
    assert " 3 pay" in scene.approval_shown(first)
    scene.approve(first, "ada")
    late = scene.payment(seller_of=first, units=10_000_000)
    scene.run()
    assert scene.instruction(late).group_id is None
    scene.approve(first, "bob")
    scene.run()
    assert scene.group(first).state == "handed_out"
    scene.submit(first, scene.sign(first))
    scene.run()
    assert states(scene, [first, second, small]) == ["final"] * 3
    assert scene.paid_to(first) == 2 * UNITS + 10_000_000
    assert scene.instruction(late).state == "awaiting_approval"
    scene.require_books_equal_chain()


def test_a_sum_that_the_policy_denies_is_not_put_together(approved_scene: Scene) -> None:
    scene = approved_scene  # at most 250 a day
    payments = three_of_one_seller(scene)
    scene.run()
    [group] = groups(scene)
    assert group.amount == 2 * AMOUNT
    assert sorted(scene.instruction(each).group_id is None for each in payments) == [False, False, True]


@ONLY_LONG
def test_approvals_of_a_group_are_lost_with_it_and_its_payments_ask_anew(approved_scene: Scene) -> None:
    scene = approved_scene
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    group = scene.group(first)
    scene.approve(first, "ada", "bob")
    scene.set_request(second, "refunded")
    scene.run()
    assert scene.instruction_row(group.id).state == "expired"
    assert states(scene, [first, second]) == ["awaiting_approval"] * 2
    assert scene.instruction(second).alone
    scene.approve(first, "ada", "bob")
    scene.run()
    assert scene.instruction(first).state == "handed_out"
