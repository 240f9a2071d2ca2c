"""Many looks answered in one transaction: what one after the other would leave, all of it or nothing (L1, L17, L21)."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account
from sqlalchemy import Engine, event

from custody.chain import answering, erc20
from custody.chain.answering import answer_looks
from tests.integration.chain_fixtures import Died, Expected, WatchingFleet, dying_at, units
from workers.demo.contracts import pay_through_proxy

SEEN = ("payment_detected", "seen", "destination", "detected")


@contextmanager
def one_block(fleet: WatchingFleet) -> Generator[None]:
    """What is sent inside is mined together."""
    fleet.world.chain.set_automine(enabled=False)
    try:
        yield
    finally:
        fleet.world.chain.mine()
        fleet.world.chain.set_automine(enabled=True)


def send(fleet: WatchingFleet, to: Expected, *, token: str | None = None) -> str:
    """Pay through the proxy and do not wait for the block."""
    return pay_through_proxy(
        fleet.world.buyer,
        fleet.world.contracts,
        token=token or fleet.token,
        recipient=to.destination,
        amount=units(to.amount),
        reference=to.reference,
    )


def answer(fleet: WatchingFleet, *, limit: int = 100) -> int:
    return answer_looks(fleet.watcher, fleet.world.client, fleet.chain, fleet.block_watch.fence, limit)


def begin(fleet: WatchingFleet) -> None:
    """The fence is taken and the first block scanned before anything is counted."""
    fleet.watch()


@contextmanager
def counting(engine: Engine) -> Generator[list[int]]:
    """Yields a list with the number of transactions that were committed."""
    committed = [0]

    def after(*_arguments: object) -> None:
        committed[0] += 1

    event.listen(engine, "commit", after)
    try:
        yield committed
    finally:
        event.remove(engine, "commit", after)


def cost(fleet: WatchingFleet, payments: int) -> tuple[int, int]:
    """Statements and transactions that the payments of one block take to be booked."""
    paid = [fleet.payment() for _ in range(payments)]
    with one_block(fleet):
        sent = [send(fleet, payment) for payment in paid]
    for each in sent:
        fleet.ask(each)
    with dying_at(fleet.watcher, 10**9) as statements, counting(fleet.watcher) as transactions:
        assert answer(fleet) == payments
    for payment in paid:
        assert fleet.entries(payment.payment) == [(*SEEN, 100)]
        assert fleet.market.state(payment.payment) == ("processing", None)
    return statements[0], transactions[0]


def test_a_block_of_payments_costs_as_many_statements_as_one(fleet: WatchingFleet) -> None:
    begin(fleet)
    assert cost(fleet, 12) == cost(fleet, 1)
    assert fleet.books_equal_chain()


def left(fleet: WatchingFleet, sent: list[str]) -> list[Any]:
    """Everything that the looks at these transactions leave, without what differs by chance, in the order of its transactions."""
    rows = fleet.market.execute(
        """
        SELECT l.state, l.outcome, f.tx_ordinal, f.amount_units, f.incarnation, f.live, f.token,
            e.entry_type::text AS entry, e.debit, e.credit, e.amount, e.metadata ->> 'attribution' AS basis, e.book_seq,
            p.status::text AS status, p.escrow_state::text AS escrow, p.transaction_hash = f.transaction_hash AS is_shown,
            d.balance, w.reason IS NOT NULL AS is_buried
        FROM fleet.chain_looks l
        LEFT JOIN fleet.chain_facts f ON f.transaction_hash = l.transaction_hash
        LEFT JOIN public.funds_ledger_entries e ON e.fact_id = f.id
        LEFT JOIN public.payments p ON p.id = f.payment_id
        LEFT JOIN public.derived_destinations d ON d.id = f.destination_id
        LEFT JOIN fleet.dead_work w ON w.subject_id = f.id::text
        WHERE l.transaction_hash = ANY(:sent)
        ORDER BY array_position(CAST(:sent AS text[]), l.transaction_hash), f.tx_ordinal, e.book_seq
        """,
        sent=sent,
    )
    return [tuple(row) for row in rows]


def scene(fleet: WatchingFleet) -> list[Any]:
    """One block with every kind of payment, looked at; returns what came of it."""
    begin(fleet)
    usual, other, twice, closed, ownerless = (fleet.payment(amount) for amount in (100, 50, 30, 20, 10))
    second = fleet.another_on(usual, 70)
    fleet.market.put(closed.payment, "cancelled", "cancelled")
    fleet.market.execute("DELETE FROM fleet.payment_routes WHERE payment_id = :id", id=ownerless.payment)
    worthless = fleet.world.worthless()
    transfer = erc20.encode_transfer(usual.destination, units(5))
    with one_block(fleet):
        sent = [
            send(fleet, usual),
            send(fleet, second),
            fleet.world.buyer.send(fleet.token, transfer),
            send(fleet, other, token=fleet.world.contracts.usdt),
            send(fleet, twice),
            send(fleet, twice),
            send(fleet, closed),
            send(fleet, ownerless),
            send(fleet, usual, token=worthless),
            fleet.world.buyer.send(Account.create().address, value=1),
        ]
    for each in sent:
        fleet.ask(each)
    assert answer(fleet) == len(sent)
    assert fleet.books_equal_chain()
    return left(fleet, sent)


def test_what_is_left_is_what_one_after_the_other_leaves(fleet: WatchingFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting(fleet.watcher) as transactions:
        together = scene(fleet)
        few = transactions[0]
    assert len({row[0] for row in together}) == 2
    assert sum(row[-1] for row in together) == 1
    monkeypatch.setattr(answering, "LOOKS_TOGETHER", 1)
    with counting(fleet.watcher) as transactions:
        apart = scene(fleet)
        assert transactions[0] > few
    assert together == apart


def refuse(fleet: WatchingFleet, payment: UUID) -> None:
    """Let the ledger refuse every entry of a payment, as a rule of its own would."""
    fleet.market.execute(
        f"ALTER TABLE public.funds_ledger_entries ADD CONSTRAINT refused CHECK (payment_id <> '{payment}') NOT VALID"
    )


def test_one_that_is_refused_stops_no_other(fleet: WatchingFleet) -> None:
    begin(fleet)
    paid = [fleet.payment() for _ in range(7)]
    with one_block(fleet):
        sent = [send(fleet, payment) for payment in paid]
    for each in sent:
        fleet.ask(each)
    bad = paid[4]
    refuse(fleet, bad.payment)
    assert answer(fleet) == 6
    for payment, transaction_hash in zip(paid, sent, strict=True):
        is_bad = payment is bad
        assert fleet.entries(payment.payment) == ([] if is_bad else [(*SEEN, 100)])
        look = fleet.look(transaction_hash)
        assert (look.state, look.attempts) == (("due", 1) if is_bad else ("seen", 0))
    assert "refused" in fleet.look(sent[4]).last_error
    fleet.market.execute("ALTER TABLE public.funds_ledger_entries DROP CONSTRAINT refused")
    fleet.make_due()
    assert answer(fleet) == 1
    assert fleet.entries(bad.payment) == [(*SEEN, 100)]
    assert fleet.books_equal_chain()


def test_a_crash_between_any_two_steps_of_a_batch_leaves_all_of_it_or_nothing(fleet: WatchingFleet) -> None:
    begin(fleet)
    paid = [fleet.payment() for _ in range(3)]
    with one_block(fleet):
        sent = [send(fleet, payment) for payment in paid]
    for each in sent:
        fleet.ask(each)
    number = 0
    while True:
        number += 1
        try:
            with dying_at(fleet.watcher, number):
                answer(fleet)
        except Died:
            found = (fleet.count("fleet.chain_facts"), fleet.count("public.funds_ledger_entries"))
            states = {fleet.look(each).state for each in sent}
            assert (found, states) in (((0, 0), {"due"}), ((3, 3), {"seen"}))
            continue
        break
    assert number > 10
    for payment in paid:
        assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert fleet.books_equal_chain()


def test_what_takes_back_is_answered_before_what_brings(fleet: WatchingFleet) -> None:
    """A payment that a reorganisation took and other coins pay: they find it open, not closed (L1, L11)."""
    payment = fleet.payment()
    second = fleet.another_on(payment)
    fleet.market.put(second.payment, "cancelled", "cancelled")
    first = fleet.pay(payment)
    fleet.watch(first)
    fleet.hold()
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    again = fleet.transfer(payment, 100)
    fleet.watch(again)
    [fact] = fleet.facts(again)
    assert fact.payment_id == payment.payment
    bases = fleet.market.execute(
        "SELECT metadata ->> 'attribution' AS basis FROM public.funds_ledger_entries "
        "WHERE fact_id = :id AND entry_type = 'payment_detected'",
        id=fact.id,
    )
    assert [row.basis for row in bases] == ["only_open"]
