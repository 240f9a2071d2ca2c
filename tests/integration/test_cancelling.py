"""R1: cancelling and outbidding what was handed out. Whoever broadcasts what, there is one payout or none, and books
equal the chain."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from custody.chain.errors import AlreadyKnown, NonceTooLow, SendRefused
from custody.releases.requests import RequestRefused, ask
from custody.store.engine import transaction
from custody.trezor import UnsignedTransaction
from tests.counts import ONLY_LONG, ROUNDS_A_PART, Counts, declared, parts
from tests.release_scene import AMOUNT, UNITS, Scene

ROUNDS = declared(ROUNDS_A_PART, 4)  # of a part


def request(scene: Scene, payment: UUID, kind: Any = "cancel") -> bool:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        return ask(connection, scene.instruction(payment).id, kind, reason="wrong seller", by="ada")


def digests(scene: Scene, payment: UUID) -> Sequence[Any]:
    return scene.market.execute(
        "SELECT * FROM fleet.nonce_digests WHERE instruction_id = :id ORDER BY place", id=scene.instruction(payment).id
    )


def unsigned(digest: Any) -> UnsignedTransaction:
    return UnsignedTransaction.from_signing_bytes(bytes(digest.unsigned_bytes))


def sign_newest(scene: Scene, payment: UUID) -> None:
    scene.submit(payment, scene.sign_hash(unsigned(digests(scene, payment)[-1]).signing_hash()))


def broadcast_as_workstation(scene: Scene, digest: Any) -> None:
    """Whoever has the bytes sends them, past the fleet."""
    made = unsigned(digest)
    scene.chain.deployer.client.send_raw(made.signed_raw(scene.sign_hash(made.signing_hash())))


def answers(scene: Scene) -> list[tuple[str, str]]:
    return [
        (row.state, row.answer)
        for row in scene.market.execute("SELECT state, answer FROM fleet.release_requests ORDER BY requested_at, id")
    ]


def require_cancelled(scene: Scene, payment: UUID) -> None:
    row = scene.instruction(payment)
    assert (row.state, row.held_reason) == ("cancelled", "cancelled by ada: wrong seller")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.state(payment) == ("confirmed", "releasable")
    assert scene.market.balance(payment)["held"] == AMOUNT
    assert scene.paid_to(payment) == 0


def test_what_is_not_handed_out_ends_at_once(scene: Scene) -> None:
    first, second = scene.payment(), scene.payment()
    scene.run()
    waiting = next(each for each in (first, second) if scene.instruction(each).state == "ready")
    request(scene, waiting)
    scene.run()
    row = scene.instruction(waiting)
    assert (row.state, row.held_reason) == ("expired", "cancelled by ada: wrong seller")
    assert scene.release_entries(waiting) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.state(waiting) == ("confirmed", "releasable")
    with (
        transaction(scene.database.engine("fleet_operator")) as connection,
        pytest.raises(RequestRefused, match="expired: nothing can be changed"),
    ):
        ask(connection, row.id, "cancel", reason="again", by="ada")


def test_a_handed_out_instruction_is_cancelled_by_the_device_on_its_own_nonce(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    assert request(scene, payment)
    assert not request(scene, payment)  # it is being asked already
    scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.held_reason.partition(":")[0]) == ("cancelling", "waits_for_cancel")
    assert scene.market.balance(payment)["releasing"] == AMOUNT
    payout, cancel = digests(scene, payment)
    before, made = unsigned(payout), unsigned(cancel)
    assert (made.to, made.value, made.data, made.nonce) == (scene.treasury, 0, b"", before.nonce)
    assert made.max_fee_per_gas * 8 >= before.max_fee_per_gas * 9
    assert made.max_priority_fee_per_gas * 8 >= before.max_priority_fee_per_gas * 9
    assert made.max_total_fee_wei <= scene.settings.release_max_total_fee_wei
    sign_newest(scene, payment)
    scene.run()
    require_cancelled(scene, payment)
    scene.require_books_equal_chain()
    assert scene.run() == 0
    other = scene.payment()
    scene.run()
    assert (scene.instruction(other).state, scene.instruction(other).nonce) == ("handed_out", row.nonce + 1)


def test_nothing_else_is_handed_out_while_a_cancel_waits(scene: Scene) -> None:
    payments = [scene.payment(), scene.payment()]
    scene.run()
    out = scene.handed_out(payments)
    request(scene, out)
    scene.run()
    other = next(each for each in payments if each != out)
    assert (scene.instruction(out).state, scene.instruction(other).state) == ("cancelling", "ready")
    sign_newest(scene, out)
    scene.run()
    assert (scene.instruction(out).state, scene.instruction(other).state) == ("cancelled", "handed_out")


def test_a_cancel_replaces_a_payout_in_the_pool(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        assert scene.instruction(payment).state == "broadcast"
        request(scene, payment)
        scene.run()
        sign_newest(scene, payment)
        scene.run()
        assert scene.instruction(payment).state == "cancelling"
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.run()
    require_cancelled(scene, payment)
    [lane] = scene.market.execute("SELECT * FROM fleet.chain_transactions")
    assert lane.hashes == [row.transaction_hash for row in digests(scene, payment)]
    assert lane.transaction_hash == lane.hashes[-1]
    scene.require_books_equal_chain()


def test_the_payout_that_was_mined_first_is_final(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        request(scene, payment)
        scene.step.run_once(10)
        assert scene.instruction(payment).state == "cancelling"
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    sign_newest(scene, payment)  # too late
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_payouts_signature_that_comes_while_cancelling_is_kept_and_not_sent(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    signature = scene.sign(payment)
    request(scene, payment)
    scene.run()
    scene.submit(payment, signature)
    scene.run()
    assert scene.submissions(payment) == [("accepted", None)]
    assert scene.instruction(payment).state == "cancelling"
    assert [row.transaction_hash is not None for row in digests(scene, payment)] == [True, False]
    assert scene.paid_to(payment) == 0
    sign_newest(scene, payment)
    scene.run()
    require_cancelled(scene, payment)


@pytest.mark.parametrize("part", parts(1_000))
def test_the_workstation_broadcasts_after_the_void(scene: Scene, counts: Counts, part: int) -> None:
    """The payout and the cancel race for the nonce, sent by whom and when the round says: one of them, never both."""
    counts("broadcasts by the workstation after a void (R1)", ROUNDS)
    ends = {"final": 0, "cancelled": 0}
    for round_number in range(ROUNDS):
        scene.empty_block()
        payment = scene.payment()
        scene.run()
        nonce = scene.instruction(payment).nonce
        if round_number % 2:  # the fleet has the payout's signature; else only the workstation has it
            scene.submit(payment, scene.sign(payment))
            scene.chain.development.set_automine(enabled=False)
            scene.run()
        payout = digests(scene, payment)[0]
        request(scene, payment)
        scene.run()
        assert scene.instruction(payment).state == "cancelling"
        scene.chain.development.set_automine(enabled=True)
        cancel_first = round_number % 3 == 0
        if cancel_first:
            sign_newest(scene, payment)
            scene.run()
        try:
            broadcast_as_workstation(scene, payout)
        except (NonceTooLow, SendRefused, AlreadyKnown):
            assert cancel_first or round_number % 2  # the nonce is spent, or the fleet sent the same before
        scene.chain.development.mine(1)
        scene.due_now()
        scene.run()
        row = scene.instruction(payment)
        assert row.nonce == nonce
        assert scene.paid_to(payment) == (UNITS if row.state == "final" else 0)
        assert scene.release_entries(payment) == [
            ("reserve", AMOUNT), ("final" if row.state == "final" else "void", AMOUNT)
        ]  # fmt: skip
        ends[row.state] += 1
        scene.require_books_equal_chain()
    assert sum(ends.values()) == ROUNDS
    assert min(ends.values()) > 0, (part, ends)


@ONLY_LONG
def test_a_bid_replaces_the_payout_and_the_mined_one_decides(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        request(scene, payment, "bump")
        scene.run()
        first, bid = (unsigned(each) for each in digests(scene, payment))
        assert (bid.to, bid.value, bid.data, bid.nonce, bid.gas_limit) == (
            first.to, first.value, first.data, first.nonce, first.gas_limit
        )  # fmt: skip
        assert bid.max_fee_per_gas * 8 >= first.max_fee_per_gas * 9
        assert bid.max_priority_fee_per_gas * 8 >= first.max_priority_fee_per_gas * 9
        sign_newest(scene, payment)
        scene.run()
        assert scene.instruction(payment).state == "broadcast"
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.receipt(payment).transaction_hash == digests(scene, payment)[-1].transaction_hash
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_cancel_is_outbid_too(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    request(scene, payment)
    scene.run()
    request(scene, payment, "bump")
    scene.run()
    assert [row.kind for row in digests(scene, payment)] == ["payout", "cancel", "cancel"]
    sign_newest(scene, payment)
    scene.run()
    require_cancelled(scene, payment)


def test_a_bid_above_the_ceiling_waits_with_its_reason(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.step.release_max_total_fee_wei = scene.instruction(payment).max_total_fee_wei
    request(scene, payment, "bump")
    scene.run()
    [(state, answer)] = answers(scene)
    assert (state, answer.partition(":")[0]) == ("received", "fee_over_ceiling")
    assert len(digests(scene, payment)) == 1
    scene.step.release_max_total_fee_wei = scene.settings.release_max_total_fee_wei
    scene.market.execute("UPDATE fleet.release_requests SET run_after = now()")
    scene.run()
    assert len(digests(scene, payment)) == 2


def test_the_workstation_sends_a_bid_that_it_never_handed_in(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        request(scene, payment, "bump")
        scene.run()
        broadcast_as_workstation(scene, digests(scene, payment)[-1])
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.run()
    assert scene.instruction(payment).state == "final"
    scene.require_books_equal_chain()


def test_a_stored_cancel_that_was_changed_takes_no_signature(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    request(scene, payment)
    scene.run()
    cancel = unsigned(digests(scene, payment)[-1])
    thief = UnsignedTransaction(
        chain_id=cancel.chain_id, nonce=cancel.nonce, max_priority_fee_per_gas=cancel.max_priority_fee_per_gas,
        max_fee_per_gas=cancel.max_fee_per_gas, gas_limit=cancel.gas_limit, to=scene.chain.token, value=0,
    )  # fmt: skip
    scene.market.execute(
        "UPDATE fleet.nonce_digests SET unsigned_bytes = :b, signing_hash = :h WHERE kind = 'cancel'",
        b=thief.signing_bytes(),
        h=thief.signing_hash(),
    )
    sign_newest(scene, payment)
    scene.run()
    [(state, reason)] = scene.submissions(payment)
    assert state == "refused"
    assert reason is not None
    assert reason.startswith("stored_bytes_differ")
    assert scene.instruction(payment).state == "cancelling"


def test_bytes_that_were_handed_out_cannot_be_changed_by_the_worker(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    for statement in (
        "UPDATE fleet.nonce_digests SET unsigned_bytes = ''",
        "DELETE FROM fleet.nonce_digests",
    ):
        with (
            pytest.raises(Exception, match="permission denied"),
            transaction(scene.database.engine("fleet_releases")) as connection,
        ):
            connection.exec_driver_sql(statement)
    assert len(digests(scene, payment)) == 1
