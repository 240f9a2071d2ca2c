"""Entries that wait too long for their seal (L15): shown to an operator as dead work until they are sealed."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from custody.ledger.seals import oldest_unsealed
from custody.store.work import bury

SEAL_LAG_ALARM_SECONDS: Final = 60
"""L15: longer than any transaction of the fleet may take (30 s), so a stranger holds the seal back, or it is not made."""

_SUBJECT: Final = {"queue": "sealer", "kind": "ledger", "id": "seal"}
_RESOLVE: Final = text(
    """
    UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'sealer'
    WHERE (queue, subject_kind, subject_id) = (:queue, :kind, :id) AND resolved_at IS NULL
    """
)


def seal_lag(connection: Connection, now: datetime) -> timedelta | None:
    """How long the oldest unsealed entry waits, when that is longer than it may; else None."""
    oldest = oldest_unsealed(connection)
    if oldest is None or now - oldest <= timedelta(seconds=SEAL_LAG_ALARM_SECONDS):
        return None
    return now - oldest


def report_lag(connection: Connection, late: timedelta, now: datetime) -> None:
    """Put the delay where an operator sees it."""
    bury(
        connection,
        queue=_SUBJECT["queue"],
        subject_kind=_SUBJECT["kind"],
        subject_id=_SUBJECT["id"],
        reason=f"entries of {now - late:%Y-%m-%d %H:%M:%S} UTC and later are not sealed",
        unblocks="end the oldest transaction that writes (pg_stat_activity, backend_xid), or start the sealer",
        attempts=1,
    )


def resolve_lag(connection: Connection) -> None:
    """Everything is sealed again: the alarm is settled."""
    connection.execute(_RESOLVE, _SUBJECT)
