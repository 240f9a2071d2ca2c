"""What a signer may hand in, and its row. Nothing is judged here: that is the releases worker's (R9, R19)."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import Connection, text

from custody.store.outbox import ring
from workers.signer_api.evidence import WAITING_STATES

REASON_CHARACTERS: Final = 500
UNJUDGED_LIMIT: Final = 8  # submissions of one instruction that wait for the worker; more is a loop or an attack

_Hex32 = Annotated[str, Field(strict=True, pattern=r"^0x[0-9a-f]{64}$")]


class SignatureBody(BaseModel):
    """(y_parity, r, s) over the instruction's signing hash. Any other field is refused."""

    model_config = ConfigDict(extra="forbid")

    y_parity: Annotated[StrictInt, Field(ge=0, le=1, description="0 or 1; never 27 or 28")]
    r: _Hex32
    s: _Hex32


class RejectionBody(BaseModel):
    """Why the signer did not sign."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(strict=True, min_length=1, max_length=REASON_CHARACTERS)]


class SubmissionRefused(Exception):
    """Nothing was written. ``status`` is the HTTP status, the message a sentence for the signer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def submit(
    connection: Connection, instruction_id: UUID, body: SignatureBody | RejectionBody, *, by: str
) -> dict[str, Any]:
    """Insert a submission and ring releases. The same signature twice is the one that stands already.

    ``by`` is the address whose session handed it in; a signature speaks for itself and may be carried by another.

    Raises SubmissionRefused: unknown instruction, not handed out, or too many unjudged ones.
    """
    state = connection.execute(
        text("SELECT state FROM fleet.release_instructions WHERE id = :id"), {"id": instruction_id}
    ).scalar_one_or_none()
    if state is None:
        raise SubmissionRefused(404, f"There is no instruction {instruction_id}.")
    values = {**_values(instruction_id, body), "by": by}
    standing = connection.execute(
        text(
            """
            SELECT id, state FROM fleet.signature_submissions
            WHERE instruction_id = :instruction AND kind = 'signature' AND kind = :kind
              AND (y_parity, r, s) = (:y_parity, :r, :s) ORDER BY received_at LIMIT 1
            """
        ),
        values,
    ).one_or_none()
    if standing is not None:
        return {"submission_id": str(standing.id), "state": standing.state, "repeated": True}
    if state not in WAITING_STATES or (state in {"signed", "broadcast"} and not _waits(connection, instruction_id)):
        raise SubmissionRefused(409, f"The instruction is {state}; only one that is handed out takes an answer.")
    waiting = connection.execute(
        text(
            "SELECT count(*) FROM fleet.signature_submissions "
            "WHERE instruction_id = :instruction AND state = 'received'"
        ),
        values,
    ).scalar_one()
    if waiting >= UNJUDGED_LIMIT:
        raise SubmissionRefused(
            429, f"{waiting} answers to this instruction wait to be judged; is the releases worker running?"
        )
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.signature_submissions (instruction_id, kind, y_parity, r, s, reason, submitted_by)
            VALUES (:instruction, :kind, :y_parity, :r, :s, :reason, :by) RETURNING id
            """
        ),
        values,
    ).scalar_one()
    ring(connection, "releases")
    return {"submission_id": str(made), "state": "received", "repeated": False}


def _waits(connection: Connection, instruction_id: UUID) -> bool:
    """Whether what was handed out last for its nonce has no signature yet: a higher bid (R1)."""
    return connection.execute(
        text(
            "SELECT coalesce((SELECT signed_bytes IS NULL FROM fleet.nonce_digests WHERE instruction_id = :id "
            "ORDER BY place DESC LIMIT 1), false)"
        ),
        {"id": instruction_id},
    ).scalar_one()


def _values(instruction_id: UUID, body: SignatureBody | RejectionBody) -> dict[str, Any]:
    kind: Literal["signature", "rejection"]
    if isinstance(body, RejectionBody):
        kind = "rejection"
        return {
            "instruction": instruction_id,
            "kind": kind,
            "y_parity": None,
            "r": None,
            "s": None,
            "reason": body.reason,
        }
    kind = "signature"
    return {
        "instruction": instruction_id,
        "kind": kind,
        "y_parity": body.y_parity,
        "r": int(body.r, 16),
        "s": int(body.s, 16),
        "reason": None,
    }
