"""Detection when blocks come and go: what vanished is taken back, what returns is booked again, a node behind proves nothing (L1)."""

import pytest
from eth_account import Account

from custody.chain import answering
from custody.chain.detection import Sighting, detect
from custody.store.engine import transaction
from tests.fleet_process import wait_for
from tests.integration.chain_fixtures import Died, WatchingFleet, dying_at, snapshot

SEEN = ("payment_detected", "seen", "destination", "detected")
UNSEEN = ("adjustment", "reorg", "detected", "destination")


def test_a_reorganisation_takes_the_transfer_and_the_hold_back(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    fleet.watch(sent)
    assert fleet.hold() == 1
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    assert fleet.watch() == 1  # sees the replaced head, and looks at what stood above the common ancestor
    assert fleet.entries(payment.payment) == [
        (*SEEN, 100),
        ("hold", "deep", "detected", "held", 100),
        ("adjustment", "reorg", "held", "detected", 100),
        (*UNSEEN, 100),
    ]
    assert fleet.market.state(payment.payment) == ("pending", None)
    row = fleet.market.execute("SELECT * FROM public.payments WHERE id = :id", id=payment.payment)[0]
    assert (row.transaction_hash, row.sender) == (None, None)
    assert [fact.live for fact in fleet.facts(sent)] == [False]
    assert (fleet.look(sent).state, fleet.look(sent).attempts) == ("due", 1)
    assert fleet.books_equal_chain()


def test_the_same_transaction_mined_again_is_another_incarnation(fleet: WatchingFleet) -> None:
    payment, world = fleet.payment(), fleet.world
    sent = fleet.pay(payment)
    raw = world.raw_transaction(sent)
    fleet.watch(sent)
    fleet.hold()
    [first] = fleet.facts(sent)
    world.chain.reorganise(1)
    world.forget_nonces()
    world.buyer.wait(world.client.send_raw(raw))  # mined at the same log index, in another block
    fleet.watch()
    fleet.make_due()
    fleet.watch()
    dead, live = fleet.facts(sent)
    assert (dead.id, dead.live, live.live) == (first.id, False, True)
    assert (live.incarnation, live.log_index, live.tx_ordinal) == (2, first.log_index, first.tx_ordinal)
    assert live.block_hash != first.block_hash
    assert [entry[:2] for entry in fleet.entries(payment.payment)] == [
        ("payment_detected", "seen"),
        ("hold", "deep"),
        ("adjustment", "reorg"),
        ("adjustment", "reorg"),
        ("payment_detected", "seen"),
    ]
    assert fleet.market.state(payment.payment) == ("processing", None)
    world.chain.mine()
    fleet.watch()
    assert fleet.hold() == 1
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    assert fleet.books_equal_chain()


def test_a_flip_to_another_block_and_back(fleet: WatchingFleet) -> None:
    payment, world = fleet.payment(), fleet.world
    sent = fleet.pay(payment)
    branch_a = world.client.receipts_and_headers([sent])
    [a] = branch_a.receipts.values()

    def is_another_block() -> bool:
        """Within one second the same transaction makes the very same block again."""
        world.chain.reorganise(1, [(world.raw_transaction(sent), 0)])
        return world.client.receipts_and_headers([sent]).receipts[sent].block_hash != a.block_hash

    wait_for(is_another_block)
    branch_b = world.client.receipts_and_headers([sent])
    [b] = branch_b.receipts.values()
    assert (a.block_number, a.logs[0].log_index) == (b.block_number, b.logs[0].log_index)
    assert a.block_hash != b.block_hash
    for found in (branch_a, branch_b, branch_a, branch_b):
        with transaction(fleet.watcher) as connection:
            detect(connection, fleet.chain, Sighting(sent, found.canonical(sent), found.head, found.headers))
        assert fleet.market.balance(payment.payment)["detected"] == 100
        assert fleet.market.state(payment.payment) == ("processing", None)
    assert [(fact.incarnation, fact.live, fact.block_hash) for fact in fleet.facts(sent)] == [
        (1, False, a.block_hash),
        (2, False, b.block_hash),
        (3, False, a.block_hash),
        (4, True, b.block_hash),
    ]
    assert fleet.entries(payment.payment) == [(*SEEN, 100), (*UNSEEN, 100)] * 3 + [(*SEEN, 100)]
    assert fleet.books_equal_chain()


def test_a_node_that_fell_behind_proves_nothing(fleet: WatchingFleet) -> None:
    payment, world = fleet.payment(), fleet.world
    before = world.rpc("evm_snapshot")
    sent = fleet.pay(payment)
    fleet.watch(sent)
    assert world.rpc("evm_revert", before) is True
    world.forget_nonces()
    fleet.watch(sent)
    assert [fact.live for fact in fleet.facts(sent)] == [True]
    assert fleet.look(sent).state == "due"
    [cursor] = fleet.market.execute("SELECT waiting_reason FROM fleet.chain_cursors")
    assert cursor.waiting_reason.startswith("behind: the nodes' newest block is")
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    # Once it is there again, with another block at that height, the transfer is proven gone.
    world.chain.mine()
    fleet.make_due()
    fleet.watch()
    assert fleet.entries(payment.payment) == [(*SEEN, 100), (*UNSEEN, 100)]


def test_a_buyer_with_another_pending_payment_stays_processing(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    fleet.watch(sent)
    fleet.market.execute(
        """
        INSERT INTO public.payments (purchase_request_ref_kind, purchase_request_id, seller_offer_ref_kind,
            seller_offer_id, buyer_id, seller_ref_kind, seller_id, amount)
        SELECT purchase_request_ref_kind, purchase_request_id, seller_offer_ref_kind, seller_offer_id, buyer_id,
            seller_ref_kind, seller_id, amount FROM public.payments WHERE id = :id
        """,
        id=payment.payment,
    )
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    fleet.watch()
    fleet.watch()
    assert fleet.market.state(payment.payment) == ("processing", None)
    assert fleet.entries(payment.payment)[-1] == (*UNSEEN, 100)


@pytest.mark.parametrize("reorganised", [False, True], ids=["booking", "reversing"])
def test_a_crash_between_any_two_steps_leaves_nothing_half_done(fleet: WatchingFleet, *, reorganised: bool) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    if reorganised:
        fleet.watch(sent)
        fleet.hold()
        fleet.world.chain.reorganise(1)
        fleet.world.forget_nonces()
    fleet.ask(sent)
    found = fleet.world.client.receipts_and_headers([sent])
    heights = [fact.block_number for fact in fleet.facts(sent)]
    headers = {**found.headers, **fleet.world.client.headers(heights)}
    sighting = Sighting(sent, found.canonical(sent), found.head, headers)
    before = snapshot(fleet.database)
    number = 0
    while True:
        number += 1
        try:
            with dying_at(fleet.watcher, number), transaction(fleet.watcher) as connection:
                detect(connection, fleet.chain, sighting)
        except Died:
            assert snapshot(fleet.database) == before
            continue
        break
    assert number > 10
    assert snapshot(fleet.database) != before
    assert fleet.entries(payment.payment)[-1] == ((*UNSEEN, 100) if reorganised else (*SEEN, 100))
    assert fleet.books_equal_chain()


def test_a_transaction_without_coins_for_us_is_no_answer_before_it_is_deep(
    fleet: WatchingFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payment that was reverted in one block may succeed in the block that replaces it."""

    def three(_chain_id: int) -> int:
        return 3

    monkeypatch.setattr(answering, "floor", three)
    stranger = fleet.world.buyer.send(Account.create().address, value=1)
    fleet.world.buyer.wait(stranger)
    assert fleet.watch(stranger) == 0
    look = fleet.look(stranger)
    assert look.state == "due"
    assert look.last_error.startswith("no transfer of an accepted token")
    fleet.world.chain.mine(2)
    fleet.make_due()
    assert fleet.watch() == 1
    assert fleet.look(stranger).state == "nothing_of_ours"


@pytest.mark.parametrize("direction", ["sweep", "outbound"])
def test_a_booked_sweep_or_payout_that_leaves_the_chain_stops_it(fleet: WatchingFleet, direction: str) -> None:
    """Its coins were booked as moved, at full depth: people decide, nothing is guessed (L14)."""
    sent = fleet.pay(fleet.payment())
    fleet.watch(sent)
    fleet.market.execute("UPDATE fleet.chain_facts SET direction = :d, judged_at = now()", d=direction)
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    fleet.watch()
    [cursor] = fleet.market.execute("SELECT paused_reason FROM fleet.chain_cursors")
    assert sent in (cursor.paused_reason or "")
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work")
    assert (dead.subject_kind, dead.subject_id) == ("chain_fact", str(fleet.facts(sent)[0].id))
    # What people have settled stops nobody again.
    fleet.market.execute("UPDATE fleet.dead_work SET resolved_at = now(), resolved_by = 'test'")
    fleet.market.execute("UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL")
    fleet.world.chain.reorganise(1)
    fleet.watch()
    [cursor] = fleet.market.execute("SELECT paused_reason FROM fleet.chain_cursors")
    assert cursor.paused_reason is None
