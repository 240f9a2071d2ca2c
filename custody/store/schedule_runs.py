"""Who answered which ring of a schedule: a second beat, or a message delivered twice, finds its slot taken."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

NAME_LENGTH_MAXIMUM = 100
PERIOD_MAXIMUM_SECONDS = 86_400

# Names of entries that ring another step than their queue's first. Here, since the table of schedules and the tasks share
# them: beat and every worker would otherwise import each subject for its name.
VERIFY_SCHEDULE: Final = "mirror-verify"
AUDIT_SCHEDULE: Final = "destinations-audit"
ALARMS_SCHEDULE: Final = "alarms-due"
PAYMENTS_SCHEDULE: Final = "request-network-payments"
QUOTES_SCHEDULE: Final = "quotes-due"

_CLAIM = text(
    "INSERT INTO fleet.schedule_runs (name, slot) VALUES (:name, :slot) ON CONFLICT DO NOTHING RETURNING slot"
)
_PURGE = text(
    """
    DELETE FROM fleet.schedule_runs WHERE (name, slot) IN (
        SELECT name, slot FROM fleet.schedule_runs WHERE ran_at < :before ORDER BY ran_at LIMIT :limit)
    """
)


def claim_slot(connection: Connection, name: str, period: int, now: datetime) -> bool:
    """Whether this caller is the first in the slot of ``period`` seconds that ``now`` (with a time zone) lies in.

    The claim stands when the caller's transaction commits. Raises ValueError for a name or period no schedule has.
    """
    if not 1 <= period <= PERIOD_MAXIMUM_SECONDS or not 1 <= len(name) <= NAME_LENGTH_MAXIMUM:
        raise ValueError(f"schedule {name[:NAME_LENGTH_MAXIMUM]!r} every {period} s: expected 1 to 86400 s")
    slot = int(now.timestamp()) // period
    return connection.execute(_CLAIM, {"name": name, "slot": slot}).first() is not None


def purge(connection: Connection, *, now: datetime, older_than: timedelta, limit: int) -> int:
    """Delete at most ``limit`` claims older than that; returns how many."""
    return connection.execute(_PURGE, {"before": now - older_than, "limit": limit}).rowcount
