"""Rows of work that could not be done: when to try again, and where an operator sees what stays undone."""

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

BACKOFF_FIRST_SECONDS: Final = 1
BACKOFF_MAXIMUM_SECONDS: Final = 300  # an operator who has repaired something waits at most this long


def backoff_seconds(attempts: int) -> int:
    """Seconds until the next try after ``attempts`` (>= 1) failures: 1, 2, 4 .. 300."""
    return min(BACKOFF_MAXIMUM_SECONDS, BACKOFF_FIRST_SECONDS << min(attempts - 1, 10))


_BURY = text(
    """
    INSERT INTO fleet.dead_work (queue, subject_kind, subject_id, payment_id, reason, unblocks, attempts)
    VALUES (:queue, :kind, :id, :payment_id, :reason, :unblocks, :attempts)
    ON CONFLICT (queue, subject_kind, subject_id) DO UPDATE
    SET reason = excluded.reason, unblocks = excluded.unblocks, attempts = excluded.attempts,
        resolved_at = NULL, resolved_by = NULL
    """
)


def bury(
    connection: Connection,
    *,
    queue: str,
    subject_kind: str,
    subject_id: UUID | str,
    reason: str,
    unblocks: str,
    attempts: int,
    payment_id: UUID | None = None,
) -> None:
    """Put work that is given up where an operator sees it (design §2, rule 7), with what would unblock it."""
    connection.execute(
        _BURY,
        {
            "queue": queue,
            "kind": subject_kind,
            "id": str(subject_id),
            "payment_id": payment_id,
            "reason": reason[:2000],
            "unblocks": unblocks,
            "attempts": attempts,
        },
    )
