"""Design §3: where a domain is written to both stores MongoDB decides, and what Postgres says is compared and counted."""

from typing import Any
from uuid import UUID

from tests.dispute_scene import in_books
from tests.release_scene import Scene


def counted(scene: Scene) -> dict[str, Any]:
    return {row.domain: row for row in scene.market.execute("SELECT * FROM fleet.shadow_reads")}


def dual(scene: Scene) -> None:
    scene.step.sources.repo_dispute = scene.step.sources.repo_marketplace = "dual"


def complete_in_postgres(scene: Scene, payment: UUID) -> UUID:
    return scene.market.execute(
        "UPDATE public.purchase_requests r SET status = 'completed' FROM public.payments p "
        "WHERE p.id = :id AND r.id = p.purchase_request_id RETURNING r.id",
        id=payment,
    )[0].id


def test_stores_that_agree_are_counted_without_a_mismatch(scene: Scene) -> None:
    payment = scene.payment()
    complete_in_postgres(scene, payment)
    dual(scene)
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    found = counted(scene)
    assert set(found) == {"dispute", "marketplace"}
    assert all(row.compared > 0 and row.mismatched == 0 for row in found.values())
    assert all(row.last_mismatch is None for row in found.values())


def test_mongodb_decides_and_what_postgres_says_otherwise_is_kept(scene: Scene) -> None:
    payment = scene.payment()  # completed in MongoDB; Postgres knows nothing of it yet
    dual(scene)
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    row = counted(scene)["marketplace"]
    assert row.mismatched == row.compared > 0
    assert row.last_mismatch["payment"] == str(payment)
    assert "completed" in row.last_mismatch["mongo"]
    assert "completed" not in row.last_mismatch["postgres"]
    assert counted(scene)["dispute"].mismatched == 0


def test_a_dispute_that_only_one_store_has_is_a_mismatch(scene: Scene) -> None:
    payment = scene.payment()
    complete_in_postgres(scene, payment)
    dual(scene)
    scene.open_dispute(payment)
    scene.run()
    assert scene.instruction(payment) is None  # MongoDB's word
    assert counted(scene)["dispute"].mismatched > 0
    before = counted(scene)["marketplace"].mismatched
    scene.set_dispute(payment, "resolved", "no_action")
    scene.market.execute(
        "INSERT INTO public.disputes (legacy_object_id, purchase_request_id, buyer_id, seller_id, reason, status, resolution) "
        "VALUES (:o, :r, 'a', 'b', 'broken', 'resolved', CAST('{\"action\": \"no_action\"}' AS jsonb))",
        o=in_books(scene, payment)[0].dispute_id,
        r=scene.request_id(payment),
    )
    disputed = counted(scene)["dispute"].mismatched
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    assert counted(scene)["dispute"].mismatched == disputed
    assert counted(scene)["marketplace"].mismatched == before


def test_a_settled_dispute_keeps_its_name_when_its_domain_is_cut_over(scene: Scene) -> None:
    """One dispute, two stores: after the cutover the books still know that they have settled it."""
    payment = scene.payment()
    scene.open_dispute(payment)
    scene.run()
    scene.set_dispute(payment, "resolved", "no_action")
    scene.run()
    [row] = in_books(scene, payment)
    request = complete_in_postgres(scene, payment)
    scene.market.execute(
        "INSERT INTO public.disputes (legacy_object_id, purchase_request_id, buyer_id, seller_id, reason, status, resolution) "
        "VALUES (:o, :r, 'a', 'b', 'broken', 'resolved', CAST('{\"action\": \"no_action\"}' AS jsonb))",
        o=row.dispute_id,
        r=str(request),
    )
    scene.step.sources.repo_dispute = scene.step.sources.repo_marketplace = "pg"
    scene.run()
    [after] = in_books(scene, payment)
    assert (after.dispute_id, after.state) == (row.dispute_id, "closed")


def test_a_shadow_that_cannot_be_read_delays_nothing(scene: Scene) -> None:
    payment = scene.payment()
    scene.market.execute("REVOKE SELECT ON public.disputes FROM fleet_releases")
    dual(scene)
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    assert "dispute" not in counted(scene)
