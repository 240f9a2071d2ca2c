"""Disputes, buyers' proofs and a device that signs whatever waits, on a release scene."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import ObjectId
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from sqlalchemy import text

from custody.releases.refund_proof import refund_text
from custody.releases.refunds import record_proof
from custody.trezor import Signature, UnsignedTransaction
from tests.release_scene import Scene


def resolve(scene: Scene, payment: UUID, **resolution: Any) -> None:
    scene.documents.disputes.update_one(
        {"purchaseRequestId": ObjectId(scene.request_id(payment))},
        {"$set": {"status": "resolved", "resolution": resolution}},
        upsert=True,
    )


def entries(scene: Scene, payment: UUID) -> list[tuple[str, str, str, str, Decimal]]:
    """What happened after the money was held and swept."""
    return [
        (row.entry_type, row.reason, row.debit, row.credit, row.amount)
        for row in scene.market.execute(
            "SELECT entry_type::text, reason, debit, credit, amount FROM public.funds_ledger_entries "
            "WHERE payment_id = :id AND reason NOT IN ('seen', 'deep', 'sweep') ORDER BY book_seq",
            id=payment,
        )
    ]


def in_books(scene: Scene, payment: UUID) -> list[Any]:
    return scene.market.execute(
        "SELECT * FROM fleet.payment_disputes WHERE payment_id = :id ORDER BY opening", id=payment
    )


def of_purpose(scene: Scene, payment: UUID, purpose: str) -> Any:
    [found] = scene.market.execute(
        "SELECT * FROM fleet.release_instructions WHERE payment_id = :id AND purpose = :purpose "
        "AND state NOT IN ('expired', 'cancelled')",
        id=payment,
        purpose=purpose,
    )
    return found


def sign_waiting(scene: Scene) -> bool:
    """Whatever waits for the device is signed there; False if nothing does."""
    found = scene.market.execute(
        """
        SELECT i.id, d.unsigned_bytes FROM fleet.release_instructions i JOIN LATERAL (
            SELECT * FROM fleet.nonce_digests d WHERE d.instruction_id = i.id ORDER BY place DESC LIMIT 1) d ON true
        WHERE i.state IN ('handed_out', 'cancelling', 'signed', 'broadcast') AND d.signed_bytes IS NULL
          AND NOT EXISTS (SELECT FROM fleet.signature_submissions s WHERE s.instruction_id = i.id AND s.state = 'received')
        """
    )
    for row in found:
        digest = UnsignedTransaction.from_signing_bytes(bytes(row.unsigned_bytes)).signing_hash()
        signature = scene.sign_hash(digest)
        with scene.database.acting("fleet_signer_api") as connection:
            connection.execute(
                text(
                    "INSERT INTO fleet.signature_submissions (instruction_id, kind, y_parity, r, s) "
                    "VALUES (:id, 'signature', :y, :r, :s)"
                ),
                {"id": row.id, "y": signature.y_parity, "r": signature.r, "s": signature.s},
            )
    return bool(found)


def work_on(scene: Scene, rounds: int = 12) -> None:
    """The worker and the treasury's device, until nothing moves."""
    for _ in range(rounds):
        scene.due_now()
        scene.market.execute("UPDATE fleet.refund_orders SET run_after = now()")
        scene.run()
        if not sign_waiting(scene):
            return
    raise AssertionError("it never came to rest")


def prove_address(scene: Scene, payment: UUID, buyer: LocalAccount, *, named: str | None = None) -> None:
    [now] = scene.market.execute("SELECT date_trunc('second', now()) AS at")
    signed = buyer.sign_message(encode_defunct(text=refund_text(payment, 31337, named or buyer.address, now.at)))
    with scene.database.acting("fleet_operator") as connection:
        record_proof(
            connection,
            payment,
            31337,
            named or buyer.address,
            now.at,
            Signature(signed.v - 27, signed.r, signed.s),
            by="the marketplace",
        )
