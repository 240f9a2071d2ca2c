"""What approvers hand in, and its row. Nothing is judged here: that is the releases worker's (R9, R18, R24)."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, text

from custody.store.outbox import ring
from workers.signer_api.evidence import LIST_LIMIT, entries_with_signatures
from workers.signer_api.submissions import UNJUDGED_LIMIT, SubmissionRefused

Subject = Literal["release_instruction", "address_book_entry", "operator_action"]
K_MAXIMUM: Final = 32  # as many as a genesis may have approvers


class ApprovalBody(BaseModel):
    """One person's EIP-191 signature, r, s and v of 27 or 28, over the text of what ``digest`` names."""

    model_config = ConfigDict(extra="forbid")

    person: Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
    approver: Annotated[str, Field(strict=True, pattern=r"^0x[0-9a-fA-F]{40}$")]
    digest: Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(strict=True, pattern=r"^0x[0-9a-f]{130}$")]


def unsigned_entries(connection: Connection, fewer_than: int) -> list[dict[str, Any]]:
    """Address book entries that fewer than ``fewer_than`` persons signed, the oldest first; each with who did."""
    return entries_with_signatures(
        connection,
        """
        (SELECT count(*) FROM fleet.approvals a WHERE a.subject_kind = 'address_book_entry' AND a.subject_id = b.id
         AND a.state <> 'refused') < :wanted
        """,
        {"wanted": fewer_than},
    )


def open_actions(connection: Connection) -> list[dict[str, Any]]:
    """Operators' actions that wait for signatures, the oldest first. ``parameters`` is PostgreSQL's text, to the letter."""
    rows = connection.execute(
        text(
            """
            SELECT a.id::text AS id, a.kind, a.chain_id, a.parameters::text AS parameters,
                encode(a.parameter_hash, 'hex') AS hash, a.reason, a.proposed_by, a.proposed_at, coalesce((
                    SELECT array_agg(DISTINCT p.person ORDER BY p.person) FROM fleet.approvals p
                    WHERE p.subject_kind = 'operator_action' AND p.subject_id = a.id AND p.digest = a.parameter_hash
                      AND p.state <> 'refused'), '{}') AS signed_by
            FROM fleet.operator_actions a WHERE a.state = 'proposed'
              -- A break-glass that has ended asks nobody any more (R15).
              AND (a.kind <> 'break_glass' OR (a.parameters ->> 'expires_at')::timestamptz > clock_timestamp())
            ORDER BY a.proposed_at, a.id LIMIT :limit
            """
        ),
        {"limit": LIST_LIMIT},
    )
    return [{**row._mapping, "proposed_at": row.proposed_at.isoformat()} for row in rows]


def submit_approval(connection: Connection, subject: Subject, subject_id: UUID, body: ApprovalBody) -> dict[str, Any]:
    """Insert an approval and ring releases. The same one twice is the one that stands already.

    Raises SubmissionRefused: unknown subject, another digest than waits now, a person who approved it, too many unjudged.
    """
    _require_digest(connection, subject, subject_id, body.digest)
    values = {
        "kind": subject,
        "id": subject_id,
        "digest": bytes.fromhex(body.digest),
        "person": body.person,
        "approver": body.approver,
        "signature": bytes.fromhex(body.signature[2:]),
    }
    waiting = connection.execute(
        text(
            "SELECT count(*) FROM fleet.approvals WHERE subject_kind = :kind AND subject_id = :id AND state = 'received'"
        ),
        values,
    ).scalar_one()
    if waiting >= UNJUDGED_LIMIT:
        raise SubmissionRefused(429, f"{waiting} approvals wait to be judged; is the releases worker running?")
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.approvals (subject_kind, subject_id, digest, person, approver, signature)
            VALUES (:kind, :id, :digest, :person, :approver, :signature)
            ON CONFLICT (subject_kind, subject_id, digest, person) WHERE state <> 'refused' DO NOTHING RETURNING id
            """
        ),
        values,
    ).scalar_one_or_none()
    if made is not None:
        ring(connection, "releases")
        return {"approval_id": str(made), "state": "received", "repeated": False}
    standing = connection.execute(
        text(
            "SELECT id, state, signature FROM fleet.approvals WHERE subject_kind = :kind AND subject_id = :id "
            "AND digest = :digest AND person = :person AND state <> 'refused'"
        ),
        values,
    ).one_or_none()
    if standing is None or bytes(standing.signature) != values["signature"]:
        raise SubmissionRefused(409, f"{body.person} has approved it already; one approval a person counts (R18).")
    return {"approval_id": str(standing.id), "state": standing.state, "repeated": True}


def _require_digest(connection: Connection, subject: Subject, subject_id: UUID, digest: str) -> None:
    if subject == "address_book_entry":
        found = connection.execute(
            text("SELECT hash FROM fleet.address_book WHERE id = :id AND number IS NOT NULL"), {"id": subject_id}
        ).scalar_one_or_none()
        if found is None:
            raise SubmissionRefused(404, f"There is no address book entry {subject_id}.")
        if found != digest:
            raise SubmissionRefused(409, f"The entry's hash is {found}; what was signed is another one.")
        return
    if subject == "operator_action":
        row = connection.execute(
            text("SELECT state, parameter_hash FROM fleet.operator_actions WHERE id = :id"), {"id": subject_id}
        ).one_or_none()
        if row is None:
            raise SubmissionRefused(404, f"There is no action {subject_id}.")
        if row.state != "proposed":
            raise SubmissionRefused(409, f"The action is {row.state}; only a proposed one takes a signature.")
        if bytes(row.parameter_hash).hex() != digest:
            raise SubmissionRefused(409, "The action has other parameters than were signed; look again.")
        return
    row = connection.execute(
        text("SELECT state, intent_hash FROM fleet.release_instructions WHERE id = :id"), {"id": subject_id}
    ).one_or_none()
    if row is None:
        raise SubmissionRefused(404, f"There is no instruction {subject_id}.")
    if row.state != "awaiting_approval" or row.intent_hash is None:
        raise SubmissionRefused(409, f"The instruction is {row.state}; only one that awaits approval takes one.")
    if bytes(row.intent_hash).hex() != digest:
        raise SubmissionRefused(
            409, "What approvers agree to has changed since (its book, the policy or the time); look again."
        )
