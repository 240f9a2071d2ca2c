"""What pauses a payment (R7): open security gaps of a document that belongs to it. Read from Postgres alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

REASON: Final = "security_gap"
"""The short name of the reason why a paused payment waits."""

NAMED_MAXIMUM: Final = 20  # more than a person reads of one answer; each of them alone is enough to wait

_OF: Final = text(
    """
    SELECT payment_id, gap_id, collection, object_id, reason, since
    FROM fleet.security_pauses_of(CAST(:payments AS uuid[])) ORDER BY since, gap_id LIMIT :limit
    """
)


@dataclass(frozen=True, slots=True)
class SecurityPause:
    """One open gap that pauses one payment: which document somebody changed in MongoDB, and what of it."""

    payment_id: UUID
    gap_id: UUID
    collection: str
    object_id: str | None
    reason: str
    since: datetime

    @property
    def what(self) -> str:
        """The gap in words, without its short name."""
        return f"gap {self.gap_id} is open: {self.collection} {self.object_id}: {self.reason}"

    @property
    def unblocks(self) -> str:
        return f"two persons close it: fleet gaps show {self.gap_id}, then fleet gaps resolve {self.gap_id}"

    @property
    def sentence(self) -> str:
        """Why the payment waits and what unblocks it, without the short name."""
        return f"{self.what.rstrip('.')}. Nothing of the payment goes out before {self.unblocks} (R7)."


def pauses_of(connection: Connection, payment_ids: Sequence[UUID]) -> list[SecurityPause]:
    """What pauses these payments, the oldest first, at most NAMED_MAXIMUM."""
    values = {"payments": list(payment_ids), "limit": NAMED_MAXIMUM}
    return [SecurityPause(*row) for row in connection.execute(_OF, values)]


def why_paused(connection: Connection, payment_id: UUID) -> str | None:
    """Why nothing of the payment goes out, with the reason's short name; None when no security gap is open."""
    found = pauses_of(connection, [payment_id])
    return f"{REASON}: {found[0].sentence}" if found else None
