"""Closing a gap of severity ``security``: proposed by one person, signed by two (R7, R10).

What may be done is held by the database (custody/store/sql/security_gaps.sql); this module names it.
"""

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger.adjustments import action_refusal, read_hash, require_label, require_reason

KIND: Final = "resolve_gap"

_PAUSED: Final = text(
    "SELECT payment_id FROM fleet.security_pauses WHERE gap_id = :gap ORDER BY payment_id LIMIT :limit"
)


def payments_paused_by(connection: Connection, gap_id: UUID, *, limit: int) -> list[UUID]:
    """Up to ``limit`` payments that an open gap pauses."""
    return list(connection.execute(_PAUSED, {"gap": gap_id, "limit": limit}).scalars())


def propose_resolution(connection: Connection, gap_id: UUID, *, write_again: bool, reason: str, by: str) -> UUID:
    """Propose to close an open security gap. Nothing changes yet; bound to what the gap says and kept.

    ``write_again``: the mirror writes the fleet's values of the document to MongoDB again; else it stays as it is. Raises
    ActionRefused for a gap that is not open or a document that the mirror does not write, ValueError.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_gap_resolution(:gap, :again, :reason, :by)"),
            {"gap": gap_id, "again": write_again, "reason": reason, "by": by},
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def execute_resolution(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> UUID:
    """Close the gap as another person than who proposed it, once two have signed; returns the gap's id.

    ``agreed_hash``: hex, as shown. Raises ActionRefused; the transaction must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        return connection.execute(
            text("SELECT fleet.execute_gap_resolution(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
