"""What waits for an operator: paused chains, work that was given up, quarantined addresses, failed releases (rule 7)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

LIMIT: Final = 200  # lines a person reads; the oldest come first


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that goes no further without a person."""

    since: datetime
    what: str
    reason: str
    unblocks: str


_FIND = text(
    """
    SELECT paused_at AS since, 'chain ' || chain_id || ' is paused' AS what, paused_reason AS reason,
        'settle the reason, then two persons: fleet chain go-on ' || chain_id AS unblocks
    FROM fleet.chain_cursors WHERE paused_reason IS NOT NULL
    UNION ALL
    SELECT created_at, queue || ': ' || subject_kind || ' ' || subject_id, reason, unblocks
    FROM fleet.dead_work WHERE resolved_at IS NULL
    UNION ALL
    SELECT updated_at, 'deposit address ' || address || ' is quarantined', quarantine_reason,
        'settle the reason, then set its status back to active'
    FROM public.derived_destinations WHERE status = 'quarantined'
    UNION ALL
    SELECT i.updated_at, 'the release of payment ' || i.payment_id || ' ' || i.state, coalesce(i.held_reason, ''),
        'settle the reason, then: fleet release ' || i.payment_id || ' --again'
    FROM fleet.release_instructions i WHERE i.state IN ('failed', 'expired', 'cancelled') AND NOT EXISTS (
        SELECT FROM fleet.release_instructions later
        WHERE later.payment_id = i.payment_id AND later.created_at > i.created_at)
    ORDER BY since LIMIT :limit
    """
)


def needs_attention(connection: Connection) -> list[Attention]:
    """At most LIMIT things, the oldest first."""
    return [Attention(*row) for row in connection.execute(_FIND, {"limit": LIMIT})]
