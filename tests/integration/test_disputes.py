"""R14, L4: a dispute freezes a payment at once, fails closed, and ends it as the marketplace decided."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest

from custody.ledger import DisputeOpen, Entry, post
from custody.releases import Step, build
from custody.releases.disputes import open_dispute
from custody.store.engine import transaction
from tests.counts import ROUNDS_A_PART, Counts, declared, parts
from tests.dispute_scene import entries, in_books, resolve, work_on
from tests.release_scene import AMOUNT, UNITS, Scene

RACES = declared(ROUNDS_A_PART, 4)  # of a part
AT_ONCE = 32


# Freezing


def test_a_dispute_before_hand_out_voids_it_and_its_end_pays_the_seller(scene: Scene) -> None:
    first, second = scene.payment(), scene.payment()
    scene.run()
    out = scene.handed_out([first, second])
    waiting = second if out == first else first
    assert scene.instruction(waiting).state == "ready"
    scene.open_dispute(waiting)
    scene.run()
    row = scene.instruction(waiting)
    assert (row.state, row.nonce) == ("expired", None)
    assert row.held_reason.startswith("dispute_open")
    assert entries(scene, waiting) == [
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "void", "releasing", "disputed", AMOUNT),
    ]
    assert scene.market.state(waiting) == ("confirmed", "releasable")
    resolve(scene, waiting, action="no_action")
    work_on(scene)
    assert scene.instruction(waiting).state == "final"
    assert entries(scene, waiting)[2:] == [
        ("dispute_hold", "lifted", "disputed", "held", AMOUNT),
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "final", "releasing", "treasury", AMOUNT),
    ]
    assert (scene.paid_to(out), scene.paid_to(waiting)) == (UNITS, UNITS)
    scene.require_books_equal_chain()


def test_held_money_is_disputed_at_once_and_the_database_refuses_to_release_it(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    scene.open_dispute(payment)
    scene.run()
    assert entries(scene, payment) == [("dispute_hold", "opened", "held", "disputed", AMOUNT)]
    [row] = in_books(scene, payment)
    assert (row.state, row.opening) == ("open", 1)
    [key] = scene.market.execute("SELECT idempotency_key FROM public.funds_ledger_entries WHERE reason = 'opened'")
    assert key.idempotency_key == f"dispute:{row.dispute_id}:1:hold"
    balance = scene.market.balance(payment)
    assert (balance["disputed"], balance["held"], balance["dispute_open"]) == (AMOUNT, 0, 1)
    scene.market.execute("UPDATE fleet.release_instructions SET state = state")
    with pytest.raises(DisputeOpen), transaction(scene.database.engine("fleet_releases")) as connection:
        post(
            connection,
            Entry(
                book_kind="payment", book_id=payment, chain_id=31337, token=scene.chain.token, entry_type="dispute_hold",
                reason="lifted", debit="disputed", credit="held", amount=AMOUNT, key="x", evidence={},
            ),
        )  # fmt: skip
    assert scene.run() == 0
    scene.set_request(payment, "completed")
    scene.run()
    assert scene.instruction(payment) is None


def test_what_is_handed_out_waits_for_its_cancel_and_is_never_sent(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.open_dispute(payment)
    scene.submit(payment, scene.sign(payment))
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "cancelling"
    assert row.held_reason.startswith("waits_for_cancel")
    assert scene.market.balance(payment)["releasing"] == AMOUNT
    assert scene.paid_to(payment) == 0
    resolve(scene, payment, action="no_action")
    scene.run()
    [dispute] = in_books(scene, payment)
    assert dispute.state == "open"  # while a signature is out nothing is decided
    assert dispute.held_reason.startswith("waits_for_cancel")
    work_on(scene)
    assert entries(scene, payment) == [
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "void", "releasing", "disputed", AMOUNT),
        ("dispute_hold", "lifted", "disputed", "held", AMOUNT),
        ("release", "reserve", "held", "releasing", AMOUNT),
        ("release", "final", "releasing", "treasury", AMOUNT),
    ]
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_an_opening_again_is_another_opening(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    for opening in (1, 2):
        scene.open_dispute(payment)
        scene.run()
        assert [row.opening for row in in_books(scene, payment)] == list(range(1, opening + 1))
        resolve(scene, payment, action="warning_seller")
        scene.run()
        assert {row.state for row in in_books(scene, payment)} == {"closed"}
    assert [entry[1] for entry in entries(scene, payment)] == ["opened", "lifted", "opened", "lifted"]
    scene.set_request(payment, "completed")
    work_on(scene)
    assert scene.paid_to(payment) == UNITS


def test_mongodb_away_moves_nothing_and_pays_nothing(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    with scene.mongodb_away():
        scene.submit(payment, scene.sign(payment))
        scene.run()
        row = scene.instruction(payment)
        assert (row.state, row.held_reason.partition(":")[0]) == ("signed", "source_unreadable")
        assert scene.paid_to(payment) == 0
    scene.open_dispute(payment)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "cancelling"


UNCLEAR: list[dict[str, Any]] = [
    {},
    {"action": "replacement"},
    {"action": "ban_seller"},
    {"action": "compensation"},
    {"action": "split", "refundAmount": 30.5},
    {"action": "split", "refundAmount": "nonsense"},
    {"action": "split", "refundAmount": "-1"},
    {"action": "split", "refundAmount": "100.000001"},
    {"action": "split", "refundAmount": "1.0000001"},
    {"action": "split", "refundPercent": "33.333"},
    {"action": "split", "refundAmount": "1", "refundPercent": "1"},
]


def test_a_resolution_that_is_not_clear_stays_with_people(scene: Scene, subtests: pytest.Subtests) -> None:
    payments = [(scene.payment(), resolution) for resolution in UNCLEAR]
    for payment, resolution in payments:
        resolve(scene, payment, **resolution)
    work_on(scene)
    for payment, resolution in payments:
        with subtests.test(str(resolution)):
            [row] = in_books(scene, payment)
            assert row.state == "open"
            assert row.held_reason.startswith("dispute_undecided")
            assert scene.market.balance(payment)["disputed"] == AMOUNT
            assert scene.instruction(payment) is None


@pytest.mark.parametrize("part", parts(1_000))
def test_a_dispute_races_a_release_and_one_of_them_wins(scene: Scene, counts: Counts, part: int) -> None:
    """32 at once: half are releases workers, half open the dispute, from each state that a release may be in."""
    counts("races of a dispute against a release (R14, 32 at once)", RACES)
    steps = [build(scene.database.engine("fleet_releases"), scene.settings) for _ in range(AT_ONCE // 2)]
    ends = {"never reserved": 0, "voided": 0, "paid before": 0}
    for number in range(RACES):
        scene.empty_block()
        payment = scene.payment()
        if number % 4 == 1:
            scene.step._find(10, None)
            scene.step._reserve(10, None)
        elif number % 4 > 1:
            scene.run()
            if number % 4 == 3:
                scene.submit(payment, scene.sign(payment))
        gate = Barrier(AT_ONCE)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            releasing = [pool.submit(release_now, step, gate) for step in steps]
            disputing = [pool.submit(dispute_now, scene, payment, gate) for _ in range(AT_ONCE - len(steps))]
            opened = sum(each.result() for each in disputing)
            assert all(each.result() >= 0 for each in releasing)
        assert opened == 1
        work_on(scene)  # what was handed out before is cancelled on its nonce
        known: dict[tuple[tuple[str, str], ...], str] = {
            (("dispute_hold", "opened"),): "never reserved",
            (("release", "reserve"), ("release", "void")): "voided",
            (("release", "reserve"), ("release", "final")): "paid before",
        }
        end = known[tuple(entry[:2] for entry in entries(scene, payment))]
        ends[end] += 1
        balance = scene.market.balance(payment)
        assert (balance["dispute_open"], balance["releasing"], balance["held"]) == (1, 0, 0)
        assert balance["disputed"] == (0 if end == "paid before" else AMOUNT)
        row = scene.instruction(payment)
        paid = 0 if row is None else scene.paid_to(payment)
        assert paid == (UNITS if end == "paid before" else 0)
        scene.market.execute("UPDATE fleet.release_instructions SET state = 'expired' WHERE state = 'drafted'")
        scene.market.put(payment, "cancelled", "cancelled")  # out of view
        scene.require_books_equal_chain()
    for step in steps:
        step.close()
    sys.stdout.write(f"part {part}: {RACES} races: {ends}\n")


def release_now(step: Step, gate: Barrier) -> int:
    gate.wait(30)
    return step.run_once(10)


def dispute_now(scene: Scene, payment: UUID, gate: Barrier) -> int:
    gate.wait(30)
    with transaction(scene.database.engine("fleet_releases")) as connection:
        return open_dispute(connection, payment, "race")
