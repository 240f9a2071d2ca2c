"""Where following stands: fleet.mirror_following, moved in the transaction of each batch, and fleet.mirror_revisits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from bson import json_util
from sqlalchemy import Connection, text

Mode = Literal["stream", "catching_up", "scan"]
Reason = Literal["suspected", "behind", "left", "refused", "frozen"]

EVERYTHING: Final = "*"
"""The row of the whole database; every other is a collection's."""

FRESH: Final = timedelta(seconds=15)
"""A follower that has caught up says so at least this often; an older word is no word."""

_SECONDS: Final[Mapping[Reason, tuple[float, float]]] = {
    "suspected": (0.01, 1.0),
    "behind": (20.0, 60.0),
    "left": (0.5, 10.0),
    "refused": (1.0, 300.0),
    "frozen": (60.0, 60.0),
}
"""When a document is looked at again: after the first, doubled each time up to the second. ``behind``: the mirror's write of it is
a change by itself, and looked at as one; this is for one that it gave up. ``frozen``: until persons decide."""

_OPTIONS: Final = json_util.CANONICAL_JSON_OPTIONS.with_options(tz_aware=True, tzinfo=UTC)

_COLUMNS: Final = (
    "name, mode, token::text AS token, reason, followed_to, caught_up, by_backend, by_fleet, applied, refused, version, "
    "started_at, updated_at"
)
_READ: Final = text(f"SELECT {_COLUMNS} FROM fleet.mirror_following WHERE name = :name")  # noqa: S608 - the constant above
_ALL: Final = text(f"SELECT {_COLUMNS} FROM fleet.mirror_following ORDER BY name")  # noqa: S608 - the constant above
_PUT: Final = text(
    """
    INSERT INTO fleet.mirror_following AS f (name, mode, token, reason, followed_to)
    VALUES (:name, :mode, CAST(:token AS jsonb), left(:reason, 500), :followed_to)
    ON CONFLICT (name) DO UPDATE SET mode = EXCLUDED.mode, token = EXCLUDED.token, reason = EXCLUDED.reason,
        followed_to = EXCLUDED.followed_to, caught_up = false, version = f.version + 1, updated_at = clock_timestamp()
    """
)
_MOVE: Final = text(
    f"""
    UPDATE fleet.mirror_following SET mode = :mode, token = CAST(:token AS jsonb), reason = left(:reason, 500),
        followed_to = greatest(followed_to, :followed_to), caught_up = :caught_up, by_backend = by_backend + :by_backend,
        by_fleet = by_fleet + :by_fleet, applied = applied + :applied, refused = refused + :refused, version = version + 1,
        updated_at = clock_timestamp()
    WHERE name = :name AND version = :version RETURNING {_COLUMNS}
    """  # noqa: S608 - the constant above
)


class Overtaken(Exception):
    """Another follower has moved on from the same place. What this one read is read again from there."""


@dataclass(frozen=True, slots=True)
class Position:
    """A row of the table. ``token`` is decoded; ``version`` is what it was when it was read."""

    name: str
    mode: Mode
    token: Any
    reason: str | None
    followed_to: datetime
    caught_up: bool
    by_backend: int
    by_fleet: int
    applied: int
    refused: int
    version: int
    started_at: datetime
    updated_at: datetime


@dataclass(slots=True)
class Counted:
    """What a batch adds to a row's counts."""

    by_backend: int = 0
    by_fleet: int = 0
    applied: int = 0
    refused: int = 0


def lag_seconds(position: Position, now: datetime) -> float:
    """How far Postgres is behind MongoDB: 0 where it has caught up and said so lately."""
    is_fresh = position.caught_up and now - position.updated_at < FRESH
    return timedelta(0).total_seconds() if is_fresh else max(timedelta(0), now - position.followed_to).total_seconds()


def read(connection: Connection, name: str) -> Position | None:
    """One row, or None before the first."""
    row = connection.execute(_READ, {"name": name}).first()
    return None if row is None else _position(row)


def everywhere(connection: Connection) -> list[Position]:
    """Every row, the whole database's first."""
    return [_position(row) for row in connection.execute(_ALL)]


def put(
    connection: Connection, name: str, mode: Mode, token: Any, followed_to: datetime, reason: str | None = None
) -> None:
    """Begin a row anew there; its counts stay."""
    values = {"name": name, "mode": mode, "token": _encoded(token), "followed_to": followed_to, "reason": reason}
    connection.execute(_PUT, values)


def move(
    connection: Connection,
    position: Position,
    *,
    token: Any,
    followed_to: datetime,
    caught_up: bool,
    counted: Counted,
    mode: Mode | None = None,
) -> Position:
    """The row, moved on in this transaction. Raises Overtaken when it is no longer as it was read."""
    row = connection.execute(
        _MOVE,
        {
            "name": position.name,
            "version": position.version,
            "mode": mode or position.mode,
            "token": _encoded(token),
            "reason": None if mode == "stream" else position.reason,
            "followed_to": followed_to,
            "caught_up": caught_up,
            "by_backend": counted.by_backend,
            "by_fleet": counted.by_fleet,
            "applied": counted.applied,
            "refused": counted.refused,
        },
    ).first()
    if row is None:
        raise Overtaken(f"{position.name}: another follower moved on from version {position.version}")
    return _position(row)


def _encoded(token: Any) -> str | None:
    return None if token is None else json_util.dumps(token, json_options=_OPTIONS)


def _position(row: Any) -> Position:
    values = {**row._mapping}
    values["token"] = None if row.token is None else json_util.loads(row.token, json_options=_OPTIONS)
    return Position(**values)


# Documents that are looked at again ---------------------------------------------------------------------------------

_DUE: Final = text(
    """
    SELECT collection, object_id, written_at FROM fleet.mirror_revisits
    WHERE run_after <= clock_timestamp() ORDER BY run_after LIMIT :limit
    """
)
_KNOWN: Final = text(
    """
    SELECT object_id, reason, row_changed_at, clock_timestamp() - since AS waited FROM fleet.mirror_revisits
    WHERE collection = :collection AND object_id = ANY(:object_ids)
    """
)
_SCHEDULE: Final = text(
    """
    INSERT INTO fleet.mirror_revisits AS r (collection, object_id, reason, run_after, written_at, row_changed_at)
    SELECT :collection, n.object_id, :reason, clock_timestamp() + make_interval(secs => :first), n.written_at, n.row_changed_at
    FROM unnest(CAST(:object_ids AS text[]), CAST(:written AS timestamptz[]), CAST(:changed AS timestamptz[]))
        AS n(object_id, written_at, row_changed_at)
    ON CONFLICT (collection, object_id) DO UPDATE SET
        reason = EXCLUDED.reason, written_at = coalesce(EXCLUDED.written_at, r.written_at),
        row_changed_at = EXCLUDED.row_changed_at,
        attempts = CASE WHEN r.reason = EXCLUDED.reason THEN least(r.attempts, 30) + 1 ELSE 1 END,
        since = CASE WHEN r.reason = EXCLUDED.reason AND r.row_changed_at IS NOT DISTINCT FROM EXCLUDED.row_changed_at
                THEN r.since ELSE clock_timestamp() END,
        run_after = clock_timestamp() + make_interval(secs => CASE WHEN r.reason = EXCLUDED.reason
                THEN least(:most, :first * power(2, least(r.attempts, 30))) ELSE :first END)
    """
)
_FORGET: Final = text(
    "DELETE FROM fleet.mirror_revisits WHERE collection = :collection AND object_id = ANY(:object_ids)"
)
_COUNT: Final = text("SELECT reason, count(*) AS count FROM fleet.mirror_revisits GROUP BY reason ORDER BY reason")


@dataclass(frozen=True, slots=True)
class Again:
    """A document to look at once more. ``row_changed_at``: None where its row has no time."""

    object_id: str
    reason: Reason
    written_at: datetime | None = None
    row_changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a document that is looked at again: since ``waited`` nothing about it changed."""

    reason: Reason
    row_changed_at: datetime | None
    waited: timedelta


def due(connection: Connection, limit: int) -> list[Any]:
    """(collection, object_id, written_at) of documents whose time has come, the longest due first."""
    return list(connection.execute(_DUE, {"limit": limit}))


def known(connection: Connection, collection: str, object_ids: Sequence[str]) -> dict[str, Known]:
    """Those of these documents that were to be looked at again."""
    found = connection.execute(_KNOWN, {"collection": collection, "object_ids": list(object_ids)})
    return {row.object_id: Known(row.reason, row.row_changed_at, row.waited) for row in found}


def schedule(connection: Connection, collection: str, again: Sequence[Again]) -> None:
    """Look at these once more, each after what its reason says."""
    for reason, (first, most) in _SECONDS.items():
        mine = [each for each in again if each.reason == reason]
        if mine:
            connection.execute(
                _SCHEDULE,
                {
                    "collection": collection,
                    "reason": reason,
                    "first": first,
                    "most": most,
                    "object_ids": [each.object_id for each in mine],
                    "written": [each.written_at for each in mine],
                    "changed": [each.row_changed_at for each in mine],
                },
            )


def forget(connection: Connection, collection: str, object_ids: Sequence[str]) -> None:
    """Nothing about these is left to wait for."""
    connection.execute(_FORGET, {"collection": collection, "object_ids": list(object_ids)})


def revisits(connection: Connection) -> dict[str, int]:
    """How many documents are looked at again, by what they wait for."""
    return {str(row[0]): int(row[1]) for row in connection.execute(_COUNT)}
