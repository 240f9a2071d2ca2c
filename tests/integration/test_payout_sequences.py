"""Groups, parts, disputes, cancels and refunds in any order and at once: never more than was held, never twice (R1, R23, L3)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account
from sqlalchemy.exc import DBAPIError

from custody.releases import ReleaseStopped, build, draft_release
from custody.releases.instructions import part_key
from custody.releases.refunds import OrderRefused, order_by_hand
from custody.releases.requests import RequestRefused, ask
from custody.store.engine import transaction
from tests.counts import ROUNDS_A_PART, Counts, declared, parts
from tests.dispute_scene import prove_address, resolve, sign_waiting, work_on
from tests.release_scene import AMOUNT, UNITS, Scene

SEQUENCES = declared(20, 2)  # of a part
STEPS = 10
ROUNDS = declared(ROUNDS_A_PART, 2)  # of a part


def part(scene: Scene, payment: UUID, random: Random) -> None:
    with suppress(ReleaseStopped), transaction(scene.database.engine("fleet_operator")) as connection:
        amount = Decimal(random.randint(1, UNITS)) / 10**6
        name = part_key(random.choice("abc"))
        draft_release(connection, payment, scene.step.chains, request_key=name, amount=amount)


def refund(scene: Scene, payment: UUID, random: Random) -> None:
    with suppress(OrderRefused), transaction(scene.database.engine("fleet_operator")) as connection:
        amount = Decimal(random.randint(1, UNITS)) / 10**6
        order_by_hand(connection, payment, amount=amount, source="held", reason=random.choice("xyz"), by="ada")


def cancel(scene: Scene, payment: UUID, _random: Random) -> None:
    if (instruction := scene.instruction(payment)) is None:
        return
    with suppress(RequestRefused), transaction(scene.database.engine("fleet_operator")) as connection:
        ask(connection, instruction.id, "cancel", reason="changed my mind", by="ada")


def dispute(scene: Scene, payment: UUID, _random: Random) -> None:
    scene.open_dispute(payment)


def settle(scene: Scene, payment: UUID, random: Random) -> None:
    resolve(
        scene,
        payment,
        **random.choice([{"action": "release"}, {"action": "refund"}, {"action": "split", "refundPercent": 30}]),
    )


def complete(scene: Scene, payment: UUID, _random: Random) -> None:
    scene.set_request(payment, "completed")


def work(scene: Scene, _payment: UUID, _random: Random) -> None:
    scene.due_now()
    scene.run()


def sign(scene: Scene, _payment: UUID, _random: Random) -> None:
    sign_waiting(scene)


MOVES: list[Callable[[Scene, UUID, Random], None]] = [
    part, refund, cancel, dispute, settle, complete, work, work, work, sign, sign,
]  # fmt: skip


def of_one_seller(scene: Scene, buyer: Any, how_many: int) -> list[UUID]:
    payments: list[UUID] = []
    for _ in range(how_many):
        payments.append(scene.payment(seller_of=payments[0] if payments else None))
        scene.set_request(payments[-1], "delivered")
        prove_address(scene, payments[-1], buyer)
    return payments


def require_nothing_lost(scene: Scene, payments: list[UUID]) -> None:
    """Each payment's books hold what came less what was paid, each end has its reserve, and the chain has paid just that."""
    for payment in payments:
        balance = scene.market.balance(payment)
        paid = scene.market.execute(
            "SELECT coalesce(sum(amount), 0) AS paid, count(*) AS count, count(DISTINCT instruction_id) AS once "
            "FROM public.funds_ledger_entries WHERE payment_id = :id AND reason = 'final'",
            id=payment,
        )[0]
        assert 0 <= paid.paid <= AMOUNT
        assert paid.count == paid.once
        assert balance["treasury"] == AMOUNT - paid.paid
        owed = sum(balance[each] for each in ("held", "disputed", "releasing", "refunding", "suspense"))
        assert owed == balance["treasury"]
    pairs = scene.market.execute(
        "SELECT instruction_id FROM public.funds_ledger_entries WHERE entry_type IN ('release', 'refund') "
        "GROUP BY instruction_id HAVING count(*) FILTER (WHERE reason = 'reserve') <> 1 "
        "OR count(*) FILTER (WHERE reason IN ('final', 'void')) > 1"
    )
    assert pairs == []
    scene.require_books_equal_chain()


@pytest.mark.parametrize("part", parts(1_000))
def test_any_sequence_moves_at_most_what_is_held_and_nothing_twice(scene: Scene, counts: Counts, part: int) -> None:
    steps = 0
    for number in range(part * SEQUENCES, (part + 1) * SEQUENCES):
        scene.empty_block()
        random, buyer = Random(number), Account.create()
        payments = of_one_seller(scene, buyer, 3)
        for _ in range(STEPS):
            random.choice(MOVES)(scene, random.choice(payments), random)
            steps += 1
        for payment in payments:
            resolve(scene, payment, action="release")
            complete(scene, payment, random)
        work_on(scene, rounds=40)
        require_nothing_lost(scene, payments)
    counts("random moves of groups, parts, disputes, cancels and refunds", steps)


@pytest.mark.parametrize("part", parts(1_000))
def test_two_workers_group_while_a_member_is_disputed_and_cancelled(scene: Scene, counts: Counts, part: int) -> None:
    second = build(scene.database.engine("fleet_releases"), scene.settings)
    try:
        for number in range(part * ROUNDS, (part + 1) * ROUNDS):
            scene.empty_block()
            random, buyer = Random(number), Account.create()
            payments = of_one_seller(scene, buyer, 3)
            for each in payments:
                complete(scene, each, random)

            def at_once(work: Callable[[], Any]) -> None:
                with suppress(DBAPIError):  # a deadlock that PostgreSQL ends: the next round does it again
                    work()

            chosen = random.choice(payments)
            with ThreadPoolExecutor(4) as pool:
                list(
                    pool.map(
                        at_once,
                        [
                            lambda: scene.step.run_once(50),
                            lambda: second.run_once(50),
                            lambda chosen=chosen: scene.open_dispute(chosen),
                            lambda other=payments[0], random=random: cancel(scene, other, random),
                        ],
                    )
                )
            scene.due_now()
            at_once(lambda: second.run_once(50))
            resolve(scene, chosen, action="release")
            work_on(scene, rounds=40)
            require_nothing_lost(scene, payments)
    finally:
        second.close()
    counts("rounds of two workers, a dispute and a cancel against one group", ROUNDS)
