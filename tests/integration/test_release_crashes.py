"""A releases worker that dies at each boundary, or runs twice at once: every seller is paid exactly once."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import pytest
from eth_account import Account

from custody.chain import ChainClient
from custody.releases import (
    Sources,
    booking,
    broadcast,
    build,
    cancelling,
    disputes,
    finality,
    hand_out,
    refunds,
    signing,
    step,
)
from tests.counts import declared
from tests.dispute_scene import in_books, of_purpose, prove_address, resolve, work_on
from tests.integration.test_cancelling import digests, request, require_cancelled
from tests.release_scene import AMOUNT, UNITS, Scene


class Killed(BaseException):
    """The process is gone: nothing after this line runs, no handler sees it."""


def dies_before(function: Callable[..., Any]) -> Callable[..., Any]:
    def dead(*_: Any, **__: Any) -> Any:
        raise Killed

    return dead


def dies_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def run_then_die(*arguments: Any, **named: Any) -> Any:
        function(*arguments, **named)
        raise Killed

    return run_then_die


Death = Callable[[Callable[..., Any]], Callable[..., Any]]
Boundary = tuple[Any, str, Death]


STRIDE: Final = declared(1, 9)
"""``make test-long`` dies at every boundary, ``make test`` at each third."""


def boundary_name(each: object) -> str:
    return str(getattr(each, "__name__", each))


# Where a death falls: before and after each transaction and each socket between hand-out and the end.
BOUNDARIES: list[Boundary] = [
    (Sources, "read", dies_before),
    (hand_out, "_ask_chain", dies_after),
    (hand_out, "take_nonce", dies_after),
    (hand_out, "_apply", dies_after),
    (signing, "_recover", dies_before),
    (signing, "store_signed", dies_after),
    (signing, "_judge", dies_after),
    (ChainClient, "send_raw", dies_before),
    (ChainClient, "send_raw", dies_after),
    (broadcast, "mark_broadcast", dies_after),
    (broadcast, "_send", dies_after),
    (finality, "judge_receipt", dies_before),
    (finality, "book_paid", dies_after),
    (finality, "_end_own", dies_after),
]


@pytest.mark.parametrize(("owner", "name", "how"), BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_pays_once(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    how: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    payment = scene.payment()
    died = False
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how(getattr(owner, name)))
        try:
            _work_on(scene, payment)
        except Killed:
            died = True
    assert died, "the boundary was never reached"
    _restart(scene)
    for _ in range(4):
        _work_on(scene, payment)
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    nonces = scene.market.execute("SELECT nonce, state FROM fleet.chain_transactions ORDER BY nonce")
    assert [(row.nonce, row.state) for row in nonces] == [(0, "final")]
    scene.require_books_equal_chain()


# The same between the request to cancel and its end, and in the life of a dispute that ends as a split.
CANCEL_BOUNDARIES: list[Boundary] = [
    (cancelling, "_ask_chain", dies_after),
    (cancelling, "keep", dies_after),
    (cancelling, "answer", dies_before),
    (cancelling, "_answer", dies_after),
    (signing, "add_signed", dies_after),
    (signing, "take_signature", dies_after),
    (cancelling, "_send", dies_before),
    (ChainClient, "send_raw", dies_before),
    (ChainClient, "send_raw", dies_after),
    (cancelling, "mark_broadcast", dies_after),
    (cancelling, "_send", dies_after),
    (finality, "book_cancelled", dies_after),
    (finality, "_end_own", dies_after),
]
SPLIT_BOUNDARIES: list[Boundary] = [
    (disputes, "_move", dies_after),
    (disputes, "void_before_hand_out", dies_after),
    (disputes, "open_dispute", dies_after),
    (disputes, "close_dispute", dies_before),
    (disputes, "order_refund", dies_after),
    (disputes, "close_dispute", dies_after),
    (disputes, "draft_release", dies_after),
    (refunds, "refund_address", dies_after),
    (refunds, "_draft", dies_after),
    (step, "reserve_refund", dies_before),
    (step, "reserve_refund", dies_after),
    (step, "reserve", dies_after),
    (finality, "book_paid", dies_after),
    (booking, "_end_refunded", dies_after),
]


@pytest.mark.parametrize(("owner", "name", "how"), CANCEL_BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_of_a_cancel_pays_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Death
) -> None:
    payment = scene.payment()
    scene.run()
    assert request(scene, payment)
    died = False
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how(getattr(owner, name)))
        try:
            work_on(scene)
        except Killed:
            died = True
    assert died, "the boundary was never reached"
    _restart(scene)
    work_on(scene)
    require_cancelled(scene, payment)
    assert [row.kind for row in digests(scene, payment)] == ["payout", "cancel"]
    scene.require_books_equal_chain()


@pytest.mark.parametrize(("owner", "name", "how"), SPLIT_BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_of_a_split_pays_each_part_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Death
) -> None:
    payments = [scene.payment(), scene.payment()]
    scene.run()
    payment = next(each for each in payments if scene.instruction(each).state == "ready")  # the dispute voids it
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    died = False
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how(getattr(owner, name)))
        try:
            _dispute_and_split(scene, payment)
        except Killed:
            died = True
    assert died, "the boundary was never reached"
    _restart(scene)
    _dispute_and_split(scene, payment)
    assert scene.token_balance(buyer.address) == 30_000_000
    assert scene.token_balance(of_purpose(scene, payment, "release").recipient) == UNITS - 30_000_000
    balance = scene.market.balance(payment)
    assert all(balance[account] == 0 for account in ("held", "disputed", "releasing", "refunding", "treasury"))
    scene.require_books_equal_chain()


def _dispute_and_split(scene: Scene, payment: UUID) -> None:
    if not in_books(scene, payment):
        scene.open_dispute(payment)
        scene.step.run_once(10)
    resolve(scene, payment, action="split", refundAmount="30")
    work_on(scene)


def test_two_workers_at_once_pay_each_seller_once(scene: Scene) -> None:
    payments = [scene.payment() for _ in range(4)]
    second = build(scene.database.engine("fleet_releases"), scene.settings)
    stop = threading.Event()

    def work(step: Any) -> None:
        while not stop.is_set():
            step.run_once(10)

    with _threads(stop, [lambda: work(scene.step), lambda: work(second)]):
        for _ in range(400):
            out = [each for each in payments if (row := scene.instruction(each)) and row.state == "handed_out"]
            assert len(out) <= 1
            if out and not scene.submissions(out[0]):
                scene.submit(out[0], scene.sign(out[0]))
            if all((row := scene.instruction(each)) and row.state == "final" for each in payments):
                break
            stop.wait(0.05)
    second.close()
    assert [scene.paid_to(each) for each in payments] == [UNITS] * 4
    assert [scene.release_entries(each) for each in payments] == [[("reserve", AMOUNT), ("final", AMOUNT)]] * 4
    scene.require_books_equal_chain()


@contextmanager
def _threads(stop: threading.Event, work: list[Callable[[], None]]) -> Generator[None]:
    failures: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def _work_on(scene: Scene, payment: Any) -> None:
    scene.run()
    row = scene.instruction(payment)
    if row is not None and row.state == "handed_out" and not scene.submissions(payment):
        scene.submit(payment, scene.sign(payment))
        scene.run()


def _restart(scene: Scene) -> None:
    """A new process, after the dead one's leases have run out."""
    scene.step.close()
    scene.step = build(scene.database.engine("fleet_releases"), scene.settings)
    scene.market.execute("UPDATE fleet.release_instructions SET lease_until = now() - interval '1 second'")
    scene.due_now()
