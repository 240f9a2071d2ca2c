"""The outbox: what must happen after a commit, written in the same transaction as its cause."""

from collections.abc import Collection
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

Queue = Literal["webhooks", "confirmations", "sweeps", "releases", "mirror", "housekeeping"]

_RING = text("INSERT INTO fleet.outbox (queue) VALUES (:queue)")
_MIRROR = text(
    "INSERT INTO fleet.outbox (queue, collection, document_id) "
    "SELECT 'mirror', :collection, id FROM unnest(CAST(:ids AS uuid[])) AS id"
)
_ENTRIES = text("SELECT fleet.ask_for_entries(:limit)")


def ring(connection: Connection, queue: Queue) -> None:
    """Ask the relay to ring ``queue`` once this transaction has committed. The message will carry no facts."""
    connection.execute(_RING, {"queue": queue})


def mirror(connection: Connection, collection: str, document_id: UUID) -> None:
    """Ask the mirror to bring ``document_id``'s present state to Mongo's ``collection``."""
    mirror_all(connection, collection, [document_id])


def mirror_all(connection: Connection, collection: str, document_ids: Collection[UUID]) -> None:
    """Ask the mirror to bring several rows' present states to Mongo's ``collection``."""
    connection.execute(_MIRROR, {"collection": collection, "ids": list(document_ids)})


def ask_for_entries(connection: Connection, limit: int) -> int:
    """Ask the mirror for at most ``limit`` ledger entries of finished transactions that nobody asked for yet.

    Whole transactions: one that has more is taken whole. Returns how many; 0 also when another is at it. An entry asks
    by being there, so that posting pays for no outbox row (custody/store/sql/entry_mirroring.sql).
    """
    return connection.execute(_ENTRIES, {"limit": limit}).scalar_one()
