"""Detection on a real chain and a real database: what is booked is what the canonical Transfer logs say (L1, L2)."""

from decimal import Decimal

import pytest
from eth_account import Account

from custody.chain import answering
from custody.chain.detection import Sighting, detect
from custody.chain.house_funding import book_funding
from custody.chain.looks import MISSING_ATTEMPTS
from custody.store.engine import transaction
from custody.store.outbox import ask_for_entries
from tests.fleet_process import wait_for
from tests.integration.chain_fixtures import ChainWorld, Died, WatchingFleet, dying_at, snapshot, units
from tests.marketplace import CHAIN_ID
from workers.demo.contracts import pay_through_proxy

SEEN = ("payment_detected", "seen", "destination", "detected")
UNSEEN = ("adjustment", "reorg", "detected", "destination")


def test_any_number_of_looks_books_a_transfer_once(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    for _ in range(3):
        assert fleet.watch(sent) == 1
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert fleet.market.state(payment.payment) == ("processing", None)
    [fact] = fleet.facts(sent)
    assert (fact.payment_id, fact.amount_units, fact.live, fact.judged_at) == (
        payment.payment,
        units(100),
        True,
        None,
    )
    row = fleet.market.execute("SELECT * FROM public.payments WHERE id = :id", id=payment.payment)[0]
    assert (row.transaction_hash, row.sender) == (sent, fleet.world.buyer.address)
    assert fleet.look(sent).state == "seen"
    destination = fleet.market.execute(
        "SELECT balance FROM public.derived_destinations WHERE address = :a", a=payment.destination
    )[0]
    assert destination.balance == units(100)
    assert fleet.books_equal_chain()


def test_what_follows_is_asked_for_in_the_same_transaction(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    fleet.watch(fleet.pay(payment))
    with transaction(fleet.database.engine("fleet_relay")) as connection:
        assert ask_for_entries(connection, 100) == 1  # the entry itself asks
    rows = fleet.market.execute("SELECT DISTINCT queue, collection FROM fleet.outbox")
    assert {(row.queue, row.collection) for row in rows} == {
        ("confirmations", None),
        ("mirror", "payments"),
        ("mirror", "deriveddestinations"),
        ("mirror", "fundsledgerentries"),
    }


def test_the_cursor_shows_the_head(fleet: WatchingFleet) -> None:
    fleet.watch()
    head = fleet.world.client.head()
    [cursor] = fleet.market.execute("SELECT * FROM fleet.chain_cursors")
    assert (cursor.head_number, cursor.head_hash) == (head.number, head.hash)
    assert int(cursor.head_timestamp.timestamp()) == head.timestamp


def test_a_transaction_that_no_block_holds_waits_and_is_given_up_in_the_end(fleet: WatchingFleet) -> None:
    unknown = "0x" + "ab" * 32
    assert fleet.watch(unknown) == 0
    look = fleet.look(unknown)
    assert (look.state, look.attempts, look.last_error) == ("due", 1, "no block holds the transaction")
    fleet.market.execute("UPDATE fleet.chain_looks SET attempts = :n, run_after = now()", n=MISSING_ATTEMPTS - 1)
    fleet.watch()
    assert fleet.look(unknown).state == "missing"
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work")
    assert (dead.queue, dead.subject_kind, dead.resolved_at) == ("watcher", "chain_look", None)
    assert unknown in dead.reason


def test_a_look_at_something_that_is_no_hash_stops_no_other(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment)
    assert fleet.watch("0xnonsense", sent) == 2
    assert fleet.look("0xnonsense").state == "missing"
    assert fleet.look(sent).state == "seen"


def test_a_transaction_seen_later_is_booked_later(fleet: WatchingFleet) -> None:
    payment, world = fleet.payment(), fleet.world
    world.chain.set_automine(enabled=False)
    try:
        sent = pay_through_proxy(
            world.buyer,
            world.contracts,
            token=fleet.token,
            recipient=payment.destination,
            amount=units(100),
            reference=payment.reference,
        )
        assert fleet.watch(sent) == 0
        assert fleet.entries(payment.payment) == []
    finally:
        world.chain.set_automine(enabled=True)
    world.chain.mine()
    fleet.make_due()
    assert fleet.watch() == 1
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]


def test_nothing_of_ours(fleet: WatchingFleet) -> None:
    fleet.payment()
    stranger = fleet.world.buyer.send(Account.create().address, value=1)
    fleet.world.buyer.wait(stranger)
    assert fleet.watch(stranger) == 1
    look = fleet.look(stranger)
    assert (look.state, look.outcome) == (
        "nothing_of_ours",
        "no transfer of an accepted token to an issued address",
    )
    assert fleet.count("fleet.chain_facts") == 0


def test_an_event_of_a_worthless_token_credits_nothing(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    sent = fleet.pay(payment, 10**12, token=fleet.world.worthless())
    fleet.watch(sent)
    assert fleet.look(sent).state == "nothing_of_ours"
    assert fleet.count("public.funds_ledger_entries") == 0
    assert fleet.market.state(payment.payment) == ("pending", None)


def test_a_token_that_keeps_a_fee_credits_what_arrived(fleet: WatchingFleet) -> None:
    fees = WatchingFleet(fleet.world, fleet.database, fleet.world.fee_token)
    payment = fees.payment(1000)
    sent = fees.pay(payment)
    fees.watch(sent)
    assert fees.entries(payment.payment) == [(*SEEN, Decimal("998.1"))]
    assert fees.books_equal_chain()


def test_another_accepted_token_is_booked_beside_and_pays_nothing(fleet: WatchingFleet) -> None:
    payment, usdt = fleet.payment(), fleet.world.contracts.usdt
    fleet.watch(fleet.pay(payment, token=usdt))
    [row] = fleet.market.execute("SELECT * FROM fleet.ledger_balances WHERE book_id = :id", id=payment.payment)
    assert (row.token, row.is_primary, row.destination, row.detected) == (usdt, False, 100, 100)
    assert fleet.market.state(payment.payment) == ("pending", None)
    assert fleet.books_equal_chain()


def test_two_payments_in_one_transaction(watched_world: ChainWorld, fleet: WatchingFleet) -> None:
    usdt = WatchingFleet(watched_world, fleet.database, watched_world.contracts.usdt)
    first, second = usdt.payment(30), usdt.payment(70)
    receipt = watched_world.pay_batch(
        usdt.token,
        [
            (first.destination, units(10), first.reference),
            (second.destination, units(70), second.reference),
            (first.destination, units(20), first.reference),
        ],
    )
    usdt.watch(receipt.transaction_hash)
    assert usdt.entries(first.payment) == [(*SEEN, 10), (*SEEN, 20)]
    assert usdt.entries(second.payment) == [(*SEEN, 70)]
    assert usdt.look(receipt.transaction_hash).outcome == "3 transfers to issued addresses"
    assert usdt.books_equal_chain()


def test_attribution_by_reference_then_the_open_one_then_the_newest(fleet: WatchingFleet) -> None:
    first = fleet.payment()
    second = fleet.another_on(first)
    by_reference = fleet.pay(first)
    guess = fleet.transfer(first, 3)
    fleet.watch(by_reference, guess)
    assert fleet.facts(by_reference)[0].payment_id == first.payment
    assert fleet.facts(guess)[0].payment_id == second.payment  # both are open: the newest, a guess
    fleet.market.execute(
        "UPDATE public.payments SET status = 'cancelled', escrow_state = 'cancelled' WHERE id = :id",
        id=second.payment,
    )
    only_open = fleet.transfer(first, 4)
    fleet.watch(only_open)
    assert fleet.facts(only_open)[0].payment_id == first.payment
    bases = fleet.market.execute(
        "SELECT metadata ->> 'attribution' AS basis FROM public.funds_ledger_entries "
        "ORDER BY CAST(metadata ->> 'block_number' AS bigint)"
    )
    assert [row.basis for row in bases] == ["reference", "newest", "only_open"]


def test_a_reference_at_another_address_is_a_lie(fleet: WatchingFleet) -> None:
    owner, other = fleet.payment(), fleet.payment()
    sent = fleet.pay(owner, reference=other.reference)
    fleet.watch(sent)
    assert fleet.entries(owner.payment) == [(*SEEN, 100)]
    assert fleet.entries(other.payment) == []


def test_an_address_in_lower_case_is_the_same_address(fleet: WatchingFleet) -> None:
    payment = fleet.payment(destination=Account.create().address.lower())
    fleet.watch(fleet.pay(payment))
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]


def test_coins_at_an_address_without_payment_are_shown_and_booked_once_it_has_one(fleet: WatchingFleet) -> None:
    payment = fleet.payment()
    [route] = fleet.market.execute("DELETE FROM fleet.payment_routes RETURNING *")
    sent = fleet.pay(payment)
    fleet.watch(sent)
    assert fleet.facts(sent)[0].payment_id is None
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work")
    assert dead.subject_kind == "chain_fact"
    columns = ", ".join(route._mapping)
    values = ", ".join(f":{name}" for name in route._mapping)
    fleet.market.execute(f"INSERT INTO fleet.payment_routes ({columns}) VALUES ({values})", **route._mapping)
    fleet.watch(sent)
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert [fact.payment_id for fact in fleet.facts(sent)] == [payment.payment]


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


def test_house_accounts_are_funded_by_what_they_hold_beyond_their_book(fleet: WatchingFleet) -> None:
    payer, treasury = Account.create().address, Account.create().address
    for address, kind in ((payer, "gas_payer"), (treasury, "treasury")):
        fleet.market.execute(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, :k)",
            c=CHAIN_ID,
            a=address,
            k=kind,
        )
    world = fleet.world

    def fund() -> int:
        return book_funding(fleet.watcher, world.client, fleet.chain, fleet.block_watch.fence, world.client.head())

    assert fund() == 0
    world.chain.set_balance(payer, 5 * 10**18)
    world.chain.set_balance(treasury, 1)
    assert fund() == 2
    assert fund() == 0
    rows = fleet.market.execute("SELECT debit, credit, amount, debit_address FROM public.funds_ledger_entries")
    assert {tuple(row) for row in rows} == {
        ("gas_payer", "gas_funding", Decimal(5), payer),
        ("treasury_house", "gas_funding", Decimal(1).scaleb(-18), treasury),
    }
    # A transaction under way: its value and fee have left the account but not yet the book, or the reverse.
    world.chain.set_balance(payer, 6 * 10**18)
    world.chain.mine()
    fleet.market.execute("INSERT INTO fleet.nonce_lanes VALUES (:c, :a, 'gas_payer', 1)", c=CHAIN_ID, a=payer)
    [unfinished] = fleet.market.execute(
        "INSERT INTO fleet.chain_transactions (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei) "
        "VALUES (:c, :a, 0, 'top_up', uuidv7(), :a, 1) RETURNING id",
        c=CHAIN_ID,
        a=payer,
    )
    assert fund() == 0
    # A node that has not yet reached the account's own last transaction shows coins that were spent since.
    head = world.client.head().number
    finish = "UPDATE fleet.chain_transactions SET state = 'failed', block_number = :n WHERE id = :id"
    fleet.market.execute(finish, n=head + 1, id=unfinished.id)
    assert fund() == 0
    fleet.market.execute(finish, n=head, id=unfinished.id)
    assert fund() == 1
    [balance] = fleet.market.execute(
        "SELECT gas_payer FROM fleet.ledger_balances WHERE book_id = "
        "(SELECT id FROM fleet.house_accounts WHERE address = :a)",
        a=payer,
    )
    assert balance.gas_payer == 6


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
