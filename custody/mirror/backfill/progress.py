"""How far each collection was brought over: fleet.backfill_progress, written in the transaction of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from bson import json_util
from sqlalchemy import Connection, text

Stage = Literal["documents", "references"]


@dataclass(slots=True)
class Progress:
    """One stage of one collection. ``last_id``: the _id of the last document done, None before the first."""

    collection: str
    stage: Stage
    since: datetime | None
    last_id: Any = None
    seen: int = 0
    inserted: int = 0
    updated: int = 0
    refused: int = 0
    waiting: int = 0
    is_finished: bool = False


_READ: Final = text(
    """
    SELECT since, last_id::text AS last_id, seen, inserted, updated, refused, waiting, finished_at IS NOT NULL AS is_finished
    FROM fleet.backfill_progress WHERE collection = :collection AND stage = :stage
    """
)
_START: Final = text(
    """
    INSERT INTO fleet.backfill_progress (collection, stage, since) VALUES (:collection, :stage, :since)
    ON CONFLICT (collection, stage) DO UPDATE SET since = excluded.since, last_id = NULL, seen = 0, inserted = 0, updated = 0,
        refused = 0, waiting = 0, started_at = clock_timestamp(), updated_at = clock_timestamp(), finished_at = NULL
    """
)
_WRITE: Final = text(
    """
    UPDATE fleet.backfill_progress
    SET last_id = CAST(:last_id AS jsonb), seen = :seen, inserted = :inserted, updated = :updated, refused = :refused,
        waiting = :waiting, updated_at = clock_timestamp(), finished_at = CASE WHEN :is_finished THEN clock_timestamp() END
    WHERE collection = :collection AND stage = :stage
    """
)


def begin(connection: Connection, places: Sequence[tuple[str, Stage]], since: datetime | None) -> None:
    """Go on with a run over these (collection, stage) that was stopped; begin anew where there is none with that ``since``."""
    found = [read_progress(connection, *place) for place in places]
    if any(each is not None and not each.is_finished and each.since == since for each in found):
        places = [place for place, each in zip(places, found, strict=True) if each is None or each.since != since]
    for collection, stage in places:
        connection.execute(_START, {"collection": collection, "stage": stage, "since": since})


def read_progress(connection: Connection, collection: str, stage: Stage) -> Progress | None:
    """How far it is, or None where it never began."""
    row = connection.execute(_READ, {"collection": collection, "stage": stage}).first()
    if row is None:
        return None
    last_id = None if row.last_id is None else json_util.loads(row.last_id)["_id"]
    return Progress(
        collection,
        stage,
        row.since,
        last_id,
        row.seen,
        row.inserted,
        row.updated,
        row.refused,
        row.waiting,
        row.is_finished,
    )


def begun(connection: Connection, collection: str, stage: Stage) -> Progress:
    """How far it is. Raises LookupError where it never began."""
    found = read_progress(connection, collection, stage)
    if found is None:
        raise LookupError(f"{collection}: {stage} never began")
    return found


def write(connection: Connection, progress: Progress) -> None:
    """Keep it, in the transaction of the batch that it counts."""
    last_id = json_util.dumps({"_id": progress.last_id}, json_options=json_util.CANONICAL_JSON_OPTIONS)
    connection.execute(
        _WRITE,
        {
            "collection": progress.collection,
            "stage": progress.stage,
            "last_id": None if progress.last_id is None else last_id,
            "seen": progress.seen,
            "inserted": progress.inserted,
            "updated": progress.updated,
            "refused": progress.refused,
            "waiting": progress.waiting,
            "is_finished": progress.is_finished,
        },
    )
