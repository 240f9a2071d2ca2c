"""Native coin that only a balance tells of: internal transfers become facts of a block, once (L8; L1, L6, L11, L15)."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import structlog

from custody.chain import ChainUnavailable, matching, to_amount
from custody.chain.native import BALANCE
from custody.chain.native_reconciliation import NATIVE_RECONCILIATION_BLOCKS, reconcile_native
from custody.ledger import Entry, post
from custody.store.engine import transaction
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, Died, dying_at
from tests.integration.native_fixtures import NativeFleet, wei
from tests.marketplace import CHAIN_ID

FUNDED = ("confirmed", "funded")
THREE = {"ETH": {"destination": Decimal(3), "held": Decimal(3)}}
SEEN = ("payment_detected", "seen", "destination", "detected")
HOLD = ("hold", "deep", "detected", "held")


@pytest.fixture
def native(watched_world: ChainWorld, database: Database) -> NativeFleet:
    return NativeFleet(watched_world, database)


def reconcile(native: NativeFleet) -> int:
    head = native.world.client.head()
    return reconcile_native(native.watcher, native.world.client, native.chain, native.block_watch.fence, head)


def again(native: NativeFleet) -> int:
    """The next run: so many blocks later."""
    native.world.chain.mine(NATIVE_RECONCILIATION_BLOCKS)
    return reconcile(native)


def house(native: NativeFleet) -> UUID:
    """A gas payer's book with ten coins."""
    [row] = native.market.execute(
        "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, 'gas_payer') RETURNING id",
        c=CHAIN_ID,
        a="0x" + "99" * 20,
    )
    move_gas(native, row.id, "fleet_watcher", "funding", ("gas_payer", "gas_funding"), 10 * 10**18)
    return row.id


def move_gas(native: NativeFleet, book: UUID, role: str, reason: str, accounts: tuple[str, str], units: int, at: str | None = None) -> None:  # fmt: skip
    debit, credit = accounts
    with transaction(native.database.engine(role)) as connection:
        post(
            connection,
            Entry(
                book_kind="house",
                book_id=book,
                chain_id=CHAIN_ID,
                token="native",
                entry_type="adjustment",
                reason=reason,
                debit=debit,
                credit=credit,
                amount=to_amount(units, 18),
                key=f"test:{reason}:{units}",
                debit_address=at if debit == "gas_float" else "0x" + "99" * 20 if debit == "gas_payer" else None,
                credit_address=at if credit == "gas_float" else "0x" + "99" * 20 if credit == "gas_payer" else None,
            ),
        )


def test_an_internal_transfer_is_found_by_the_balance_and_held(native: NativeFleet) -> None:
    payment = native.payment(3)
    sent = native.relayed(payment, 3)
    assert native.watch(sent) == 1
    assert native.look(sent).state == "nothing_of_ours"
    assert reconcile(native) == 1
    head = native.world.client.head()
    [fact] = native.native_facts()
    assert fact.transaction_hash == f"native:{CHAIN_ID}:{payment.destination}:{head.hash}"
    assert (fact.log_index, fact.tx_ordinal, fact.block_number, fact.block_hash, fact.amount_units) == (
        BALANCE,
        BALANCE,
        head.number,
        head.hash,
        wei(3),
    )
    assert native.entries(payment.payment) == [(*SEEN, 3)]
    native.watch()
    assert native.hold() == 1
    assert native.books(payment.payment) == THREE
    assert native.market.state(payment.payment) == FUNDED
    assert native.books_equal_chain()
    [shown] = native.market.execute(
        "SELECT transaction_hash, sender FROM public.payments WHERE id = :p", p=payment.payment
    )
    assert tuple(shown) == (None, None)  # nobody is shown a transaction that there is not
    assert again(native) == 0
    assert native.count("fleet.chain_looks") == 1


def test_parts_add_up_whoever_tells_of_them(native: NativeFleet) -> None:
    """L7: a plain transfer, an event, and twice what only the balance knows; the last one is too much."""
    payment = native.payment(3)
    native.settle(native.plain(payment, "0.5"))
    native.relayed(payment, "0.5")
    assert reconcile(native) == 1
    native.settle(native.proxied(payment, 1))
    assert native.market.state(payment.payment) == ("processing", "partial")
    native.relayed(payment, "1.25")
    assert again(native) == 1
    native.settle()
    assert native.books(payment.payment) == {
        "ETH": {"destination": Decimal("3.25"), "held": 3, "suspense": Decimal("0.25")}
    }
    assert native.market.state(payment.payment) == FUNDED
    assert native.entries(payment.payment)[-1][:2] == ("adjustment", "surplus")


def test_two_open_payments_leave_a_guess(native: NativeFleet) -> None:
    """L11: nothing says whose, so the newest has it in suspense."""
    first = native.payment(3)
    second = native.another_on(first, 3)
    native.relayed(first, 3)
    assert reconcile(native) == 1
    native.settle()
    assert native.books(first.payment) == {}
    assert native.books(second.payment) == {"ETH": {"destination": 3, "suspense": 3}}


def test_it_costs_a_call_an_address_that_expects_native_coin(
    native: NativeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ones = [native.payment(3) for _ in range(3)]
    for other in (native.payment(3), native.payment(3)):
        native.market.execute(
            "UPDATE fleet.payment_routes SET token = :t WHERE payment_id = :p",
            t=native.world.contracts.usdc,
            p=other.payment,
        )
    closed, paid = native.payment(3), native.payment(3)
    native.market.put(closed.payment, "cancelled", "cancelled")
    native.settle(native.plain(paid, 3))
    batches: list[list[str]] = []
    read = native.world.client._transport.read

    def counted(calls: list[tuple[str, list[Any]]]) -> object:
        batches.append([str(params[0]) for method, params in calls if method == "eth_getBalance"])
        return read(calls)

    monkeypatch.setattr(native.world.client._transport, "read", counted)
    assert reconcile(native) == 0
    asked = [batch for batch in batches if batch]
    assert [sorted(batch) for batch in asked] == [sorted(one.destination for one in [*open_ones, paid])]
    batches.clear()
    native.world.chain.mine()
    head = native.world.client.head()
    if head.number % NATIVE_RECONCILIATION_BLOCKS:  # the same span of blocks: nothing is read again
        assert reconcile(native) == 0
        assert [batch for batch in batches if batch] == []


def test_gas_of_the_house_at_an_address_is_nobodys_payment(native: NativeFleet) -> None:
    """L6: what the house's books hold there is the house's, the rest is the payer's to the wei."""
    payment, book = native.payment(3), house(native)
    native.world.chain.set_balance(payment.destination, 5 * 10**16)
    move_gas(native, book, "fleet_sweeps", "topup", ("gas_float", "gas_payer"), 5 * 10**16, payment.destination)
    native.world.chain.mine()
    assert reconcile(native) == 0
    move_gas(native, book, "fleet_sweeps", "gas", ("gas_spent", "gas_float"), 10**16, payment.destination)
    native.world.chain.set_balance(payment.destination, 4 * 10**16)
    native.relayed(payment, "0.000000000000000001")
    assert again(native) == 1
    assert native.books(payment.payment) == {"ETH": {"destination": Decimal("1e-18"), "detected": Decimal("1e-18")}}


def test_what_is_under_way_or_looked_for_waits(native: NativeFleet) -> None:
    payment, address = native.payment(3), "0x" + "98" * 20
    native.market.execute("INSERT INTO fleet.nonce_lanes VALUES (:c, :a, 'gas_payer', 1)", c=CHAIN_ID, a=address)
    [top_up] = native.market.execute(
        "INSERT INTO fleet.chain_transactions (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei) "
        "VALUES (:c, :a, 0, 'top_up', uuidv7(), :r, 1) RETURNING id",
        c=CHAIN_ID,
        a=address,
        r=payment.destination,
    )
    native.relayed(payment, 3)
    assert reconcile(native) == 0
    native.market.execute("UPDATE fleet.chain_transactions SET state = 'failed' WHERE id = :id", id=top_up.id)
    unknown = "0x" + "ab" * 32
    native.ask(unknown, payment.payment)
    assert again(native) == 0
    native.market.execute("UPDATE fleet.chain_looks SET state = 'missing'")
    assert again(native) == 1
    assert native.entries(payment.payment) == [(*SEEN, 3)]


def no_match(_connection: object, _blocks: object) -> list[str]:
    """A scan that overlooks a transfer, as one of an address that is told of later does."""
    return []


def test_a_look_that_tells_of_the_same_coins_takes_their_place(
    native: NativeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never both: the balance's fact is reversed, and what else it had is found again."""
    monkeypatch.setattr(matching, "concerned", no_match)
    payment = native.payment(3)
    native.relayed(payment, 1)
    told_late = native.plain(payment, 2)
    assert reconcile(native) == 1
    native.settle()
    assert native.books(payment.payment) == THREE
    native.watch(told_late)
    assert native.entries(payment.payment)[2:] == [
        ("adjustment", "reorg", "held", "detected", 3),
        ("adjustment", "reorg", "detected", "destination", 3),
        (*SEEN, 2),
    ]
    native.hold()
    assert native.market.state(payment.payment) == ("processing", "partial")
    assert again(native) == 1
    native.settle()
    assert native.books(payment.payment) == THREE
    assert native.market.state(payment.payment) == FUNDED
    native.settle(told_late)
    assert again(native) == 0
    assert [(fact.log_index, fact.live, int(fact.amount_units)) for fact in native.native_facts()] == [
        (BALANCE, False, wei(3)),
        (-1, True, wei(2)),
        (BALANCE, True, wei(1)),
    ]


def test_coins_that_moved_on_are_not_credited_a_second_time(
    native: NativeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "concerned", no_match)
    payment = native.payment(3)
    told_late = native.plain(payment, 3)
    assert reconcile(native) == 1
    native.settle()
    native.market.execute(
        "UPDATE fleet.ledger_balances SET destination = 0, treasury = 3 WHERE book_id = :id", id=payment.payment
    )
    before = native.entries(payment.payment)
    assert native.watch(told_late) == 0
    assert native.entries(payment.payment) == before
    assert "booked by their address' balance already" in native.look(told_late).last_error
    assert native.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason is None


@pytest.mark.parametrize("held", [False, True], ids=["seen", "held"])
def test_it_is_taken_back_when_its_block_leaves_the_chain(native: NativeFleet, *, held: bool) -> None:
    payment = native.payment(3)
    native.relayed(payment, 3)
    reconcile(native)
    native.watch()
    if held:
        native.hold()
    native.world.chain.reorganise(1)
    native.world.forget_nonces()
    if not held:  # judged on the chain, not on what was seen once; and there is no transaction to look at
        assert native.hold() == 0
        assert native.count("fleet.chain_looks") == 0
    native.watch()
    assert native.count("fleet.chain_looks") == 0
    assert reconcile(native) == 1
    assert native.books(payment.payment) == {"ETH": {}}
    assert native.market.state(payment.payment) == ("pending", None)
    assert [fact.live for fact in native.native_facts()] == [False]
    assert native.books_equal_chain()
    native.relayed(payment, 3)
    assert again(native) == 1
    native.settle()
    assert native.books(payment.payment) == THREE


def test_what_is_booked_between_the_look_and_the_book_is_not_counted_twice(
    native: NativeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment, client = native.payment(3), native.world.client
    sent = native.plain(payment, 3)
    read = client.balances

    def and_meanwhile(addresses: Any, block_hash: str) -> dict[str, int]:
        found = read(addresses, block_hash)
        native.watch(sent)
        return found

    monkeypatch.setattr(client, "balances", and_meanwhile)
    assert reconcile(native) == 0
    assert native.entries(payment.payment) == [(*SEEN, 3)]


def test_an_address_that_holds_less_than_its_books_is_said(native: NativeFleet) -> None:
    payment = native.payment(3)
    native.settle(native.plain(payment, 3))
    native.world.chain.set_balance(payment.destination, wei(1))
    native.world.chain.mine()
    with structlog.testing.capture_logs() as logs:
        assert reconcile(native) == 0
    assert [(entry["event"], entry.get("missing_wei")) for entry in logs] == [("native_destination_short", str(wei(2)))]
    assert len(native.entries(payment.payment)) == 2


def test_a_block_that_the_node_no_longer_has_is_compared_later(native: NativeFleet) -> None:
    payment = native.payment(3)
    native.relayed(payment, 3)
    head = native.world.client.head()
    native.world.chain.reorganise(1)
    native.world.forget_nonces()
    native.relayed(payment, 3)
    with pytest.raises(ChainUnavailable):
        reconcile_native(native.watcher, native.world.client, native.chain, native.block_watch.fence, head)
    assert native.native_facts() == []
    assert reconcile(native) == 1  # the same span of blocks: it was not done


def test_an_address_that_cannot_be_booked_is_shown_and_stops_no_other(native: NativeFleet) -> None:
    broken, whole = native.payment(3), native.payment(3)
    for payment in (broken, whole):
        native.relayed(payment, 3)
    native.market.execute("DELETE FROM fleet.posting_rules WHERE reason = 'seen'")
    assert reconcile(native) == 0
    shown = native.market.execute("SELECT queue, subject_kind, reason FROM fleet.dead_work ORDER BY subject_id")
    assert {(row.queue, row.subject_kind) for row in shown} == {("watcher", "native_destination")}
    assert len(shown) == 2
    assert all("MovementNotAllowed" in row.reason for row in shown)
    assert native.native_facts() == []


def test_a_crash_at_any_statement_books_it_once(native: NativeFleet) -> None:
    payment = native.payment(3)
    native.relayed(payment, 3)
    number, done = 0, 0
    while True:
        number += 1
        try:
            with dying_at(native.watcher, number):
                reconcile(native)
        except Died:
            seen = native.entries(payment.payment)
            assert seen in ([], [(*SEEN, 3)])
            assert len(native.native_facts()) == len(seen)
            assert native.market.state(payment.payment) == (("processing" if seen else "pending"), None)
            done += 1
            continue
        break
    assert done > 10
    assert native.entries(payment.payment) == [(*SEEN, 3)]
    assert native.books_equal_chain()
