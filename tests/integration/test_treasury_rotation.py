"""A treasury's rotation with money in flight (R22): what finishes, what is moved, what is voided; books equal chain."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from custody.chain import ChainClient, erc20
from custody.releases import booking, drains, finality, hand_out, signing, step
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.integration.test_release_crashes import STRIDE, Killed, boundary_name, dies_after, dies_before
from tests.release_scene import AMOUNT, UNITS
from tests.rotation_scene import RULES, RotationScene, rotation_scenes
from tests.token_chain import TokenChain
from workers.embedded.services import Services


@pytest.fixture
def approved(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[RotationScene]:
    yield from rotation_scenes(token_chain, database, services, mongo_database, tmp_path, RULES)


@pytest.fixture
def plain(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[RotationScene]:
    yield from rotation_scenes(token_chain, database, services, mongo_database, tmp_path)


def in_every_state(scene: RotationScene) -> dict[str, UUID]:
    """Payments whose coins lie at the active treasury: handed out, ready, awaiting approval, and not due at all."""
    found = {"handed_out": scene.payment(), "ready": scene.payment(), "asked": scene.payment()}
    found["not_due"] = scene.payment(completed=False)
    scene.run()
    for name in ("handed_out", "ready"):
        scene.approve(found[name], "ada", "bob")
    scene.run()
    if scene.instruction(found["ready"]).state == "handed_out":
        found["handed_out"], found["ready"] = found["ready"], found["handed_out"]
    assert [scene.instruction(found[name]).state for name in ("handed_out", "ready", "asked")] == [
        "handed_out",
        "ready",
        "awaiting_approval",
    ]
    return found


def test_money_in_flight_finishes_where_it_lies_and_the_rest_is_moved(approved: RotationScene) -> None:
    scene = approved
    flying = in_every_state(scene)
    late = scene.payment(swept=False)
    old = scene.rotate()
    assert scene.treasury != old
    fresh = scene.payment()  # swept to the new treasury at once
    scene.sweep_to(late, old)  # a sweep that was signed before settles at the old one
    # What was promised from the old treasury is paid from it; what came to the new one from the new one.
    scene.approve_all()
    signed = scene.sign_all()
    for name in ("handed_out", "ready", "asked"):
        assert scene.instruction(flying[name]).state == "final"
        assert scene.instruction(flying[name]).treasury == old
        assert scene.paid_to(flying[name]) == UNITS
    assert (scene.instruction(fresh).state, scene.instruction(fresh).treasury) == ("final", scene.treasury)
    # Late coins are drafted from where they lie: a draining treasury still pays (R22).
    assert (scene.instruction(late).state, scene.instruction(late).treasury) == ("final", old)
    assert {each.purpose for each in signed} == {"release"}
    scene.require_books_equal_chain()
    # The rest is moved by instructions of their own kind, once somebody orders it.
    assert scene.of(flying["not_due"], "drain") == []
    scene.order(old)
    scene.run()
    [drain] = scene.of(flying["not_due"], "drain")
    assert (drain.state, drain.treasury, drain.recipient) == ("awaiting_approval", old, scene.treasury)
    assert scene.lying_at(old) == AMOUNT
    scene.approve(flying["not_due"], "ada")
    scene.run()
    assert scene.of(flying["not_due"], "drain")[0].state == "awaiting_approval"
    scene.approve(flying["not_due"], "bob")
    scene.sign_all()
    assert scene.of(flying["not_due"], "drain")[0].state == "final"
    assert (scene.lying_at(old), scene.lying_at(scene.treasury)) == (0, AMOUNT)
    assert scene.entries(flying["not_due"], "rotation") == [
        ("rotation", "in_transit", "treasury", old, old),
        ("rotation", "treasury", "in_transit", scene.treasury, old),
    ]
    scene.require_books_equal_chain()
    assert scene.approve_all() == [None]
    assert [each.purpose for each in scene.sign_all()] == ["drain"]
    scene.require_books_equal_chain()
    # And is released from there, as if it had always lain there.
    scene.mark(old, "retired")
    scene.set_request(flying["not_due"], "completed")
    scene.approve_all()
    scene.sign_all()
    paid = scene.instruction(flying["not_due"])
    assert (paid.purpose, paid.state, paid.treasury) == ("release", "final", scene.treasury)
    assert scene.paid_to(flying["not_due"]) == UNITS
    scene.require_books_equal_chain()


def test_a_compromised_treasury_pays_nobody_and_is_emptied_first(approved: RotationScene) -> None:
    scene = approved
    flying = in_every_state(scene)
    large = scene.payment(completed=False, units=3 * UNITS)
    old = scene.rotate("compromised")
    fresh = scene.payment()
    scene.run()
    # What no device has seen is voided, what one may have signed ends by its nonce alone (R1).
    for name in ("ready", "asked"):
        [voided] = scene.of(flying[name], "release")
        assert (voided.state, voided.held_reason.split(":")[0]) == ("expired", "treasury_compromised")
    assert scene.of(flying["handed_out"], "release")[0].state == "handed_out"
    # Everything that lies there is moved, the largest first; nothing else is handed out meanwhile.
    asked = scene.open_ones("awaiting_approval")
    assert [each.purpose for each in asked].count("drain") == 4
    assert next(each.payment_id for each in asked if each.purpose == "drain") == large
    for payment in (fresh, large, *(flying[name] for name in ("ready", "asked", "not_due"))):
        scene.approve(payment, "ada", "bob")
    # A pause stops payouts and sweeps, never this.
    scene.market.execute("UPDATE fleet.chain_cursors SET paused_reason = 'money moves', paused_at = now()")
    scene.due_now()
    scene.run()
    assert scene.instruction(fresh).state == "ready"
    [out] = scene.open_ones("handed_out")
    scene.sign_now(out)
    scene.market.execute("UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL")
    scene.due_now()
    scene.run()
    assert "move(s) of coins" in scene.instruction(fresh).held_reason
    order = [each.purpose for each in scene.sign_all()]
    assert order[:4] == ["drain"] * 4
    assert order[4:] == ["release"]
    assert (scene.lying_at(old), scene.token_balance(old)) == (0, 0)
    assert [row.reason.split(":")[0] for row in _dead_work(scene)] == ["treasury_compromised"]
    alarms = scene.market.execute("SELECT subject_id FROM fleet.alarms WHERE subject_kind = 'releases/treasury'")
    assert [row.subject_id for row in alarms] == [f"31337:{old}"]
    # What was voided is asked for again, from where its coins are.
    assert {flying["ready"], flying["asked"]} <= {*scene.approve_all()}
    scene.sign_all()
    for name in ("ready", "asked"):
        _, again = scene.of(flying[name], "release")
        assert (again.state, again.treasury) == ("final", scene.treasury)
        assert scene.paid_to(flying[name]) == UNITS
    assert scene.of(flying["handed_out"], "release")[0].state == "final"
    scene.require_books_equal_chain()


def _dead_work(scene: RotationScene) -> list[Any]:
    return scene.market.execute("SELECT reason FROM fleet.dead_work WHERE subject_kind = 'treasury'")


def test_coins_at_two_treasuries_are_brought_together_before_they_are_paid(plain: RotationScene) -> None:
    """L3: no address pays what another one holds."""
    scene = plain
    payment = scene.payment(completed=False, units=60_000_000)
    old = scene.rotate()
    scene.add(payment, 40_000_000)
    scene.set_request(payment, "completed")
    scene.run()
    assert scene.instruction(payment) is None
    scene.order(old)
    scene.sign_all()
    assert [each.purpose for each in (*scene.of(payment, "drain"), *scene.of(payment, "release"))] == [
        "drain",
        "release",
    ]
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_dispute_does_not_keep_coins_at_a_treasury(plain: RotationScene) -> None:
    """Whose they are is disputed, where they lie is not: the refund is paid from the new treasury."""
    scene = plain
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.open_dispute(payment)
    scene.order(old)
    scene.sign_all()
    assert scene.of(payment, "drain")[0].state == "final"
    balance = scene.market.balance(payment)
    assert (balance["disputed"], balance["treasury"], balance["in_transit"]) == (AMOUNT, AMOUNT, 0)
    scene.require_books_equal_chain()


@ONLY_LONG
def test_a_move_that_is_cancelled_leaves_the_coins_where_they_were(plain: RotationScene) -> None:
    scene = plain
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.order(old)
    scene.run()
    [drain] = scene.of(payment, "drain")
    assert drain.state == "handed_out"
    assert scene.market.balance(payment)["in_transit"] == AMOUNT
    scene.market.execute(
        "INSERT INTO fleet.release_requests (instruction_id, kind, reason, requested_by) VALUES (:id, 'cancel', 'not now', 'm')",
        id=drain.id,
    )
    scene.due_now()
    scene.run()
    [row] = scene.waiting()
    assert row.purpose == "cancel"
    scene.sign_now(row)
    scene.due_now()
    scene.run()
    assert scene.of(payment, "drain")[0].state == "cancelled"
    balance = scene.market.balance(payment)
    assert (balance["in_transit"], balance["treasury"], scene.lying_at(old)) == (0, AMOUNT, AMOUNT)
    scene.run()
    assert len(scene.of(payment, "drain")) == 1  # nobody orders by giving up
    scene.order(old)
    scene.sign_all()
    assert [each.state for each in scene.of(payment, "drain")] == ["cancelled", "final"]
    scene.require_books_equal_chain()


@ONLY_LONG
def test_the_new_treasury_holds_no_more_because_an_old_one_is_drained(plain: RotationScene) -> None:
    """R5 follows the rotation, and yields to a thief alone."""
    scene = plain
    first, second = scene.payment(completed=False), scene.payment(completed=False)
    (scene.folder / "chains.toml").write_text(scene._chains_file())
    old = scene.rotate()
    path = scene.folder / "chains.toml"
    path.write_text(path.read_text().replace("decimals = 6 }", 'decimals = 6, treasury_maximum = "150" }'))
    scene.restart()
    scene.order(old)
    scene.sign_all()
    states = sorted(
        (scene.of(each, "drain")[0].state, scene.of(each, "drain")[0].held_reason) for each in (first, second)
    )
    assert [state for state, _ in states] == ["ready", "ready"]
    assert all(reason.startswith("treasury_full") for _, reason in states)
    scene.mark(old, "compromised")
    scene.sign_all()
    assert scene.lying_at(scene.treasury) == 2 * AMOUNT
    scene.require_books_equal_chain()


@ONLY_LONG
def test_a_second_rotation_turns_what_was_not_handed_out_towards_the_newest_treasury(plain: RotationScene) -> None:
    scene = plain
    payments = [scene.payment(completed=False) for _ in range(2)]
    oldest = scene.rotate()
    scene.order(oldest)
    scene.run()
    [out] = scene.open_ones("handed_out")
    middle = scene.rotate()
    scene.sign_all()
    waiting = next(each for each in payments if each != out.payment_id)
    assert [(each.state, each.recipient) for each in scene.of(waiting, "drain")] == [
        ("expired", middle),
        ("final", scene.treasury),
    ]
    assert (scene.lying_at(oldest), scene.lying_at(middle), scene.lying_at(scene.treasury)) == (0, AMOUNT, AMOUNT)
    scene.order(middle)
    scene.sign_all()
    assert scene.lying_at(scene.treasury) == 2 * AMOUNT
    scene.require_books_equal_chain()


def test_the_database_moves_no_coins_that_are_promised(plain: RotationScene) -> None:
    """L3: what is promised to a seller cannot be promised to a move, whoever drafts it."""
    scene = plain
    payment = scene.payment()
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    old = scene.rotate()
    scene.order(old)
    scene.run()
    assert scene.of(payment, "drain") == []
    scene.market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        "amount_units, release_epoch) VALUES (:p, 'drain', 31337, :old, :token, :new, 100, 100000000, 0)",
        p=payment, old=old, new=scene.treasury, token=scene.chain.token,
    )  # fmt: skip
    scene.run()
    [drain] = scene.of(payment, "drain")
    assert (drain.state, drain.held_reason.split(":")[0]) == ("drafted", "coins_promised")
    balance = scene.market.balance(payment)
    assert (balance["in_transit"], balance["releasing"]) == (0, AMOUNT)


# Where a death falls in a move's life, and in what a compromised treasury voids.
MOVE_BOUNDARIES: list[Any] = [
    (drains, "_draft_one", dies_after),
    (drains, "free_coins", dies_after),
    (drains, "book_drain_promised", dies_after),
    (step, "reserve_drain", dies_after),
    (hand_out, "_ask_chain", dies_after),
    (hand_out, "take_nonce", dies_after),
    (hand_out, "_apply", dies_after),
    (signing, "store_signed", dies_after),
    (ChainClient, "send_raw", dies_before),
    (ChainClient, "send_raw", dies_after),
    (booking, "book_drained", dies_before),
    (booking, "book_drained", dies_after),
    (finality, "book_paid", dies_after),
]
VOID_BOUNDARIES: list[Any] = [
    (drains, "void_before_hand_out", dies_before),
    (drains, "void_before_hand_out", dies_after),
    (drains, "_void", dies_after),
    (drains, "bury", dies_after),
    (drains, "next_request_key", dies_after),
    (drains, "draft_release", dies_after),
]
Death = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.mark.parametrize(("owner", "name", "how"), MOVE_BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_moves_the_coins_once(
    plain: RotationScene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Death
) -> None:
    scene = plain
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.order(old)
    _dies(scene, monkeypatch, owner, name, how)
    assert [each.state for each in scene.of(payment, "drain")] == ["final"]
    assert (scene.lying_at(old), scene.lying_at(scene.treasury)) == (Decimal(0), AMOUNT)
    assert [each[0] for each in scene.entries(payment, "rotation", "rotation_void")] == ["rotation", "rotation"]
    scene.require_books_equal_chain()


@pytest.mark.parametrize(("owner", "name", "how"), VOID_BOUNDARIES[::STRIDE], ids=boundary_name)
def test_a_death_at_any_boundary_of_a_compromise_pays_each_seller_once(
    plain: RotationScene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Death
) -> None:
    scene = plain
    payments = [scene.payment(), scene.payment()]
    scene.run()
    old = scene.rotate("compromised")
    _dies(scene, monkeypatch, owner, name, how)
    assert [scene.token_balance(scene.of(each, "release")[0].recipient) for each in payments] == [UNITS, UNITS]
    assert (scene.lying_at(old), scene.token_balance(old)) == (0, 0)
    assert len(_dead_work(scene)) == 1
    scene.require_books_equal_chain()


def _dies(scene: RotationScene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Death) -> None:
    died = False
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how(getattr(owner, name)))
        try:
            scene.sign_all()
        except Killed:
            died = True
    assert died, "the boundary was never reached"
    scene.restart()
    scene.sign_all()


def test_the_houses_own_tokens_are_moved_after_its_sellers_and_before_its_coins(plain: RotationScene) -> None:
    scene = plain
    payment = scene.payment(completed=False)
    wallet = scene.chain.deployer
    wallet.wait(wallet.send(scene.chain.token, erc20.encode_transfer(scene.treasury, 7_250_001)))
    scene.post(
        "fleet_watcher", scene.house, "adjustment", "funding", "treasury_house", "gas_funding", Decimal("7.250001"),
        key="token:funding", debit_address=scene.treasury, book_kind="house",
    )  # fmt: skip
    scene.require_books_equal_chain()
    old = scene.rotate()
    scene.order(old)
    scene.run()
    assert [each.state for each in scene.of(payment, "drain")] == ["handed_out"]
    assert scene.house_drains(old) == []
    signed = scene.sign_all()
    assert [each.payment_id for each in signed] == [payment, None, None]
    tokens, coins = scene.house_drains(old)
    assert (tokens.token, tokens.amount_units, tokens.state) == (scene.chain.token, 7_250_001, "final")
    assert (coins.token, coins.state) == ("native", "final")
    assert (scene.lying_at(old), scene.lying_at(scene.treasury)) == (0, AMOUNT + Decimal("7.250001"))
    scene.require_books_equal_chain()
