"""Rows of collections that MongoDB drops by TTL indexes (seed: Notification, TelegramSession): purged here by a schedule.

A document's id stays in id_map: an ObjectId is never another row's.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Expiry:
    """Rows of ``table`` end when their ``column`` is older than ``kept``."""

    table: str
    column: str
    kept: timedelta


EXPIRIES: Final = (
    Expiry("public.notifications", "created_at", timedelta(days=90)),
    Expiry("public.telegram_sessions", "expires_at", timedelta()),
)

_PURGE: Final = """
    DELETE FROM {table} WHERE id IN (
        SELECT id FROM {table} WHERE {column} < :before ORDER BY {column} LIMIT :limit)
"""


def purge_expired(connection: Connection, *, now: datetime, limit: int) -> int:
    """Delete at most ``limit`` ended rows of each table; returns how many went."""
    return sum(
        connection.execute(
            text(_PURGE.format(table=expiry.table, column=expiry.column)),
            {"before": now - expiry.kept, "limit": limit},
        ).rowcount
        for expiry in EXPIRIES
    )
