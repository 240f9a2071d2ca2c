"""What the verification found, kept: of each collection its last whole round, and every difference that is open."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.mirror.agreement.digests import Range
from custody.mirror.agreement.looking import Look, Verdict

WAITING_MAXIMUM: Final = timedelta(minutes=10)
"""A document that is always just being changed is a difference after this: nobody hides one by touching it."""

_RECORD = text(
    """
    INSERT INTO fleet.mirror_differences AS d (collection, object_id, verdict, reason, fields, state)
    VALUES (:collection, :object_id, :verdict, left(:reason, 500), :fields, :state)
    ON CONFLICT (collection, object_id) DO UPDATE SET
        verdict = EXCLUDED.verdict, reason = EXCLUDED.reason, fields = EXCLUDED.fields, last_seen_at = clock_timestamp(),
        first_seen_at = CASE WHEN d.resolved_at IS NULL THEN d.first_seen_at ELSE clock_timestamp() END,
        state = CASE WHEN EXCLUDED.state = 'waiting' AND d.resolved_at IS NULL
                AND d.first_seen_at < clock_timestamp() - CAST(:patience AS interval) THEN 'open' ELSE EXCLUDED.state END,
        resolved_at = NULL
    RETURNING state
    """
)
_RESOLVE = text(
    """
    UPDATE fleet.mirror_differences SET resolved_at = clock_timestamp()
    WHERE collection = :collection AND resolved_at IS NULL AND NOT object_id = ANY(:still)
      AND CASE WHEN object_id ~ '^[0-9a-f]{24}$' THEN object_id >= :start AND object_id < :end
          -- What is no ObjectId stands before them all.
          ELSE :start = '' END
    """
)
_FINISH = text(
    """
    INSERT INTO fleet.mirror_agreements AS a (collection, began_at, finished_at, documents, table_rows, equal, different, unreadable,
        waiting, digest, left_out, next_start, running)
    VALUES (:collection, :began, clock_timestamp(), :documents, :rows, :equal, :different, :unreadable, :waiting, :digest, :left_out,
        '', NULL)
    ON CONFLICT (collection) DO UPDATE SET (began_at, finished_at, documents, table_rows, equal, different, unreadable, waiting,
        digest, left_out, next_start, running) = (EXCLUDED.began_at, EXCLUDED.finished_at, EXCLUDED.documents, EXCLUDED.table_rows,
        EXCLUDED.equal, EXCLUDED.different, EXCLUDED.unreadable, EXCLUDED.waiting, EXCLUDED.digest, EXCLUDED.left_out, '', NULL)
    """
)
_STATUS = text(
    """
    SELECT a.collection, a.finished_at, a.documents, a.table_rows, a.equal, a.different, a.unreadable, a.waiting, a.left_out,
        (SELECT count(*) FROM fleet.mirror_differences d WHERE d.collection = a.collection AND d.resolved_at IS NULL) AS open
    FROM fleet.mirror_agreements a ORDER BY a.collection
    """
)


@dataclass(slots=True)
class Counts:
    """What a round counted in one collection. ``equal`` is of documents that both stores have, the same."""

    documents: int = 0
    rows: int = 0
    equal: int = 0
    different: int = 0
    unreadable: int = 0
    waiting: int = 0

    def add(self, other: "Counts") -> None:
        for name in Counts.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in Counts.__slots__}


@dataclass(frozen=True, slots=True)
class Standing:
    """A collection's last finished round. ``finished_at``: None while there was none; ``open``: differences now."""

    collection: str
    finished_at: datetime | None
    documents: int
    rows: int
    equal: int
    different: int
    unreadable: int
    waiting: int
    left_out: list[str]
    open: int


def standings(connection: Connection) -> list[Standing]:
    """Every collection that was ever verified: how old its digest is (``finished_at``), what it counted, what is open."""
    return [Standing(*row) for row in connection.execute(_STATUS)]


def record(connection: Connection, found: Look, state: str) -> str:
    """Keep one difference; the state that it now has: one that waited too long is open."""
    return connection.execute(
        _RECORD,
        {
            "collection": found.collection,
            "object_id": found.object_id,
            "verdict": found.verdict.value,
            "reason": found.reason,
            "fields": [each.name for each in found.fields],
            "state": state,
            "patience": WAITING_MAXIMUM,
        },
    ).scalar_one()


def resolve_others(connection: Connection, collection: str, within: Range, still: Iterable[Look]) -> None:
    """What was open in this range and was not found again is resolved."""
    names = [found.object_id for found in still if found.verdict is not Verdict.EQUAL]
    values = {"collection": collection, "start": within.start, "end": within.end, "still": names}
    connection.execute(_RESOLVE, values)


def finish(
    connection: Connection, collection: str, counted: Counts, *, began: datetime, digest: bytes, left_out: Iterable[str]
) -> None:
    """Keep a whole round of a collection."""
    values: dict[str, Any] = {**counted.as_json()}
    connection.execute(
        _FINISH, {**values, "collection": collection, "began": began, "digest": digest, "left_out": list(left_out)}
    )
