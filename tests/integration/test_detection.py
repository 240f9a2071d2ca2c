"""Detection on a real chain and a real database: what is booked is what the canonical Transfer logs say (L1, L2)."""

from decimal import Decimal

from eth_account import Account

from custody.chain.house_funding import book_funding
from custody.chain.looks import MISSING_ATTEMPTS
from custody.store.engine import transaction
from custody.store.outbox import ask_for_entries
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet, units
from tests.marketplace import CHAIN_ID
from workers.demo.contracts import pay_through_proxy

SEEN = ("payment_detected", "seen", "destination", "detected")


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
