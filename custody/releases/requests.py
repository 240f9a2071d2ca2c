"""What operators and disputes ask of an instruction: a row each, which the releases worker answers (R1, R9)."""

from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from uuid import UUID

from sqlalchemy import Connection, text

from custody.releases import rows
from custody.releases.states import ENDED
from custody.store.outbox import ring
from custody.store.work import backoff_seconds

RequestKind = Literal["cancel", "bump", "raw_units"]

REASON_CHARACTERS: Final = 500  # what a person writes in a line
ANSWER_CHARACTERS: Final = 1_000


class RequestRefused(Exception):
    """Nothing was asked. The message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One open request; ``attempts`` counts the looks at it so far."""

    id: UUID
    instruction_id: UUID
    kind: RequestKind
    reason: str
    requested_by: str
    attempts: int


def ask(connection: Connection, instruction_id: UUID, kind: RequestKind, *, reason: str, by: str) -> bool:
    """Ask for a cancel, for higher fees, or for smallest units (R2); False if that is being asked already. Rings the releases queue.

    Raises LookupError for an unknown instruction, RequestRefused for one that has ended.
    """
    found = rows.select(connection, "i.id = :id", {"id": instruction_id})
    if not found:
        raise LookupError(f"there is no release instruction {instruction_id}")
    if found[0].state in ENDED:
        raise RequestRefused(f"instruction {instruction_id} is {found[0].state}: nothing can be changed any more.")
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.release_requests (instruction_id, kind, reason, requested_by)
            VALUES (:instruction, :kind, :reason, :by) ON CONFLICT DO NOTHING
            """
        ),
        {"instruction": instruction_id, "kind": kind, "reason": reason[:REASON_CHARACTERS], "by": by},
    )
    ring(connection, "releases")
    return made.rowcount == 1


def due(connection: Connection, chain_id: int, limit: int) -> list[Request]:
    """Open requests of a chain's instructions, the longest due first: cancels before bids."""
    found = connection.execute(
        text(
            """
            SELECT r.id, r.instruction_id, r.kind, r.reason, r.requested_by, r.attempts
            FROM fleet.release_requests r JOIN fleet.release_instructions i ON i.id = r.instruction_id
            WHERE r.state = 'received' AND r.run_after <= clock_timestamp() AND i.chain_id = :chain
            ORDER BY r.kind = 'cancel' DESC, r.run_after, r.id LIMIT :limit
            """
        ),
        {"chain": chain_id, "limit": limit},
    )
    return [_read(row) for row in found]


def lock_open(connection: Connection, request: Request) -> bool:
    """Lock a request whose instruction the caller has locked (L17); False if it was answered meanwhile."""
    state = connection.execute(
        text("SELECT state FROM fleet.release_requests WHERE id = :id FOR UPDATE"), {"id": request.id}
    ).scalar_one()
    return state == "received"


def answer(connection: Connection, request: Request, state: Literal["done", "refused"], words: str) -> None:
    """End a request with what came of it."""
    connection.execute(
        text("UPDATE fleet.release_requests SET state = :state, answer = :words WHERE id = :id AND state = 'received'"),
        {"id": request.id, "state": state, "words": words[:ANSWER_CHARACTERS]},
    )


def postpone(connection: Connection, request: Request, why: str) -> None:
    """Leave a request open with the reason why it waits, and look again later."""
    connection.execute(
        text(
            """
            UPDATE fleet.release_requests SET answer = :why, attempts = attempts + 1,
                run_after = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id = :id AND state = 'received'
            """
        ),
        {
            "id": request.id,
            "why": why[:ANSWER_CHARACTERS],
            "seconds": min(rows.HOLD_MAXIMUM_SECONDS, backoff_seconds(request.attempts + 1)),
        },
    )


def why_cancelled(connection: Connection, instruction_id: UUID) -> str:
    """Who asked for an instruction's cancel, and why, for the entry that gives its promise back."""
    row = connection.execute(
        text(
            "SELECT requested_by, reason FROM fleet.release_requests WHERE instruction_id = :id AND kind = 'cancel' "
            "ORDER BY requested_at, id LIMIT 1"
        ),
        {"id": instruction_id},
    ).one_or_none()
    return "cancelled" if row is None else f"cancelled by {row.requested_by}: {row.reason}"


def _read(row: Any) -> Request:
    return Request(row.id, row.instruction_id, cast(RequestKind, row.kind), row.reason, row.requested_by, row.attempts)
