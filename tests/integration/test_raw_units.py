"""R2: a payout read in smallest units is marked, approved by one more person, and shown as what it is."""

from uuid import UUID

from custody.releases.requests import RequestKind, ask
from custody.store.engine import transaction
from tests.release_scene import UNITS, Scene


def mark(scene: Scene, payment: UUID, kind: RequestKind = "raw_units") -> tuple[str, str]:
    """Ask as an operator does; what came of it."""
    with transaction(scene.database.engine("fleet_operator")) as connection:
        ask(connection, scene.instruction(payment).id, kind, reason="no definition of it is published", by="mina")
    scene.run()
    [row] = scene.market.execute(
        "SELECT state, answer FROM fleet.release_requests WHERE kind = :kind ORDER BY requested_at DESC LIMIT 1",
        kind=kind,
    )
    return row.state, row.answer


def test_the_mark_takes_one_more_person_who_sees_it(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    before = scene.instruction(payment)
    assert " RAW" not in scene.approval_shown(payment)
    scene.approve(payment, "ada")
    assert mark(scene, payment) == (
        "done",
        "the device will show smallest units: it is put before the approvers again, and one more must agree.",
    )
    marked = scene.instruction(payment)
    assert marked.raw_units
    assert bytes(marked.intent_hash) != bytes(before.intent_hash)  # what ada approved is another payout now
    assert f"nr {str(marked.id)[-8:]} RAW" in scene.approval_shown(payment)
    scene.approve(payment, "ada", "bob")
    scene.run()
    waiting = scene.instruction(payment)
    assert waiting.state == "awaiting_approval"
    assert "1 more of 3 persons must approve (ada, bob did) (rule genesis:raw-units)" in waiting.held_reason
    scene.approve(payment, "cyd")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    scene.submit(payment, scene.sign(payment))
    scene.run()
    assert (scene.instruction(payment).state, scene.paid_to(payment)) == ("final", UNITS)


def test_what_was_approved_in_whole_tokens_is_not_marked_any_more(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    state, answer = mark(scene, payment)
    assert (state, "its approvers agreed to an amount in whole tokens" in answer) == ("refused", True)
    assert not scene.instruction(payment).raw_units


def test_a_row_that_is_marked_behind_the_approvers_backs_is_asked_again(approved_scene: Scene) -> None:
    """Whoever writes the column alone has nobody's approval for it (R4, R9)."""
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    scene.market.execute("UPDATE fleet.release_instructions SET raw_units = true")
    scene.due_now()
    scene.run()
    found = scene.instruction(payment)
    assert (found.state, "3 persons" in found.held_reason) == ("awaiting_approval", True)
    assert scene.paid_to(payment) == 0
