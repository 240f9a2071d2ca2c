"""Open rows of public.pg_dualwrite_gaps: reported once, closed by a later success or by a person.

Those of severity ``security`` are closed by two persons alone (custody/mirror/security_gaps.py): they pause payments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from bson import json_util
from sqlalchemy import Connection, text

PAYLOAD_LENGTH_MAXIMUM: Final = 60_000
"""Of a document that was not brought over, kept for the person who repairs it; MongoDB has all of it."""

REASON_LENGTH_MAXIMUM: Final = 2_000
LISTED_MAXIMUM: Final = 200  # a screen or two; the filters narrow it
NAME_LENGTH_MAXIMUM: Final = 100
RESOLUTION_LENGTH_MAXIMUM: Final = 500

WITHHELD: Final = frozenset(
    {
        "password",
        "refreshTokens",
        "emailVerificationCode",
        "resetPasswordCode",
        "callbackSecret",
        "token",
        "tokenHash",
        "initDataFingerprint",
    }
)
"""Fields that no payload keeps: operators read the gaps, and no credential of anybody."""

Severity = Literal["warning", "error", "security"]
"""``warning`` heals by itself once what it refers to is there; ``security`` means that somebody changed money (R7)."""


@dataclass(frozen=True, slots=True)
class Report:
    """A document that was not, or not wholly, brought over. ``object_id``: its _id as text."""

    object_id: str
    severity: Severity
    reason: str
    payload: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A row of the table. ``payload`` is JSON text, and only there where one gap was asked for."""

    id: UUID
    collection: str
    op: str
    object_id: str | None
    severity: str
    reason: str
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None
    payload: str | None = None


class GapRefused(ValueError):
    """What was asked of a gap cannot be done. The message says why."""


_SUPERSEDE: Final = text(
    """
    UPDATE public.pg_dualwrite_gaps g
    SET resolved_at = clock_timestamp(), resolved_by = :op, resolution = 'another reason stands now'
    FROM unnest(CAST(:object_ids AS text[])) AS n(object_id)
    WHERE g.resolved_at IS NULL AND g.op = :op AND g.collection = :collection AND g.legacy_object_id = n.object_id
      AND g.severity <> 'security'
      AND NOT EXISTS (
          SELECT FROM unnest(CAST(:object_ids AS text[]), CAST(:reasons AS text[])) AS o(object_id, reason)
          WHERE o.object_id = g.legacy_object_id AND o.reason = g.reason)
      AND (CAST(:only AS text) IS NULL OR starts_with(g.reason, :only))
      AND NOT EXISTS (SELECT FROM unnest(CAST(:but AS text[])) AS kept(prefix) WHERE starts_with(g.reason, kept.prefix))
    """
)
_REPORT: Final = text(
    """
    INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason)
    SELECT :collection, :op, n.object_id, CAST(n.payload AS jsonb), n.severity, n.reason
    FROM unnest(CAST(:object_ids AS text[]), CAST(:payloads AS text[]), CAST(:severities AS text[]),
                CAST(:reasons AS text[])) AS n(object_id, payload, severity, reason)
    WHERE NOT EXISTS (
        SELECT FROM public.pg_dualwrite_gaps g
        WHERE g.resolved_at IS NULL AND g.collection = :collection AND g.op = :op
          AND g.legacy_object_id = n.object_id AND g.reason = n.reason)
    """
)
_LEFT: Final = text(
    """
    SELECT n.object_id
    FROM unnest(CAST(:object_ids AS text[]), CAST(:payloads AS text[]), CAST(:reasons AS text[])) AS n(object_id, payload, reason)
    JOIN public.pg_dualwrite_gaps g ON g.collection = :collection AND g.op = :op AND g.legacy_object_id = n.object_id
      AND g.reason = n.reason AND g.payload = CAST(n.payload AS jsonb) AND NOT g.payload ? 'too_long'
    WHERE g.severity = 'security' AND starts_with(g.resolved_by, 'action:')
      AND NOT EXISTS (SELECT FROM fleet.mirror_restorations r WHERE 'action:' || r.action_id = g.resolved_by)
    """
)
_CLOSE: Final = text(
    """
    UPDATE public.pg_dualwrite_gaps
    SET resolved_at = clock_timestamp(), resolved_by = :op, resolution = :resolution
    WHERE resolved_at IS NULL AND op = :op AND collection = :collection AND legacy_object_id = ANY(:object_ids)
      AND severity <> 'security'
      AND (CAST(:only AS text) IS NULL OR starts_with(reason, :only))
      AND NOT EXISTS (SELECT FROM unnest(CAST(:but AS text[])) AS kept(prefix) WHERE starts_with(reason, kept.prefix))
    """
)
_COLUMNS: Final = """id, collection, op, legacy_object_id AS object_id, severity, reason, created_at, resolved_at, resolved_by,
    resolution"""
_LIST: Final = text(
    f"""
    SELECT {_COLUMNS} FROM public.pg_dualwrite_gaps
    WHERE (:resolved OR resolved_at IS NULL) AND (CAST(:collection AS text) IS NULL OR collection = :collection)
      AND (CAST(:severity AS text) IS NULL OR severity = :severity)
      AND (CAST(:op AS text) IS NULL OR op = :op)
    ORDER BY created_at DESC, id LIMIT :limit
    """  # noqa: S608 - the columns are the constant above
)
_COUNT: Final = text(
    """
    SELECT count(*) FROM public.pg_dualwrite_gaps
    WHERE (:resolved OR resolved_at IS NULL) AND (CAST(:collection AS text) IS NULL OR collection = :collection)
      AND (CAST(:severity AS text) IS NULL OR severity = :severity)
    """
)
_ONE: Final = text(f"SELECT {_COLUMNS}, payload::text AS payload FROM public.pg_dualwrite_gaps WHERE id = :id")  # noqa: S608
_RESOLVE: Final = text(
    "UPDATE public.pg_dualwrite_gaps SET resolved_at = clock_timestamp(), resolved_by = :by, resolution = :reason "
    "WHERE id = :id AND resolved_at IS NULL"
)


def payload_of(document: dict[str, Any] | None, size: int) -> str:
    """A document as canonical Extended JSON for the payload, credentials withheld; ``size``: its BSON's bytes."""
    if document is None:
        return json_util.dumps({"unreadable": size})
    shown = {name: "withheld" if name in WITHHELD else value for name, value in document.items()}
    made = json_util.dumps(shown, json_options=json_util.CANONICAL_JSON_OPTIONS)
    if len(made) > PAYLOAD_LENGTH_MAXIMUM:
        return json_util.dumps({"too_long": len(made), "_id": shown.get("_id")})
    return made.replace("\\u0000", "\\ufffd")  # jsonb keeps no NUL


def report(
    connection: Connection,
    op: str,
    collection: str,
    found: Sequence[Report],
    *,
    only: str | None = None,
    but: Sequence[str] = (),
) -> None:
    """Add what is not reported yet. Open gaps of the same documents with other reasons are closed, as ``close`` chooses."""
    if not found:
        return
    values = {
        "only": only,
        "but": list(but),
        "severities": [each.severity for each in found],
        **_as_arrays(op, collection, found),
    }
    connection.execute(_SUPERSEDE, values)
    connection.execute(_REPORT, values)


def not_left_as_it_is(connection: Connection, op: str, collection: str, found: Sequence[Report]) -> list[Report]:
    """Without the very documents that two persons have left as they are (R7, R10); of those nobody is asked again.

    For who reads what documents are, not what is done to them: to do the same a second time is another act.
    """
    secure = [each for each in found if each.severity == "security"]
    if not secure:
        return list(found)
    left = set(connection.execute(_LEFT, _as_arrays(op, collection, secure)).scalars())
    return [each for each in found if each.severity != "security" or each.object_id not in left]


def _as_arrays(op: str, collection: str, found: Sequence[Report]) -> dict[str, Any]:
    return {
        "op": op,
        "collection": collection,
        "object_ids": [each.object_id for each in found],
        "reasons": [each.reason.replace("\x00", "\ufffd")[:REASON_LENGTH_MAXIMUM] for each in found],
        "payloads": [each.payload for each in found],
    }


def close(
    connection: Connection,
    op: str,
    collection: str,
    object_ids: Sequence[str],
    *,
    only: str | None = None,
    but: Sequence[str] = (),
    resolution: str = "a later write of it succeeded",
) -> int:
    """Close these documents' open gaps: ``only`` those whose reason begins so, and not those that begin as one of ``but``."""
    if not object_ids:
        return 0
    values = {"op": op, "collection": collection, "object_ids": list(object_ids), "only": only, "but": list(but)}
    return connection.execute(_CLOSE, {**values, "resolution": resolution}).rowcount


def listed(
    connection: Connection,
    *,
    collection: str | None = None,
    severity: str | None = None,
    op: str | None = None,
    resolved: bool = False,
    limit: int = LISTED_MAXIMUM,
) -> list[Gap]:
    """Gaps, the newest first; with ``resolved`` also those that are closed."""
    values = {"collection": collection, "severity": severity, "op": op, "resolved": resolved, "limit": limit}
    return [Gap(**row._mapping) for row in connection.execute(_LIST, values)]


def count(
    connection: Connection, *, collection: str | None = None, severity: str | None = None, resolved: bool = False
) -> int:
    """How many there are."""
    values = {"collection": collection, "severity": severity, "resolved": resolved}
    return connection.execute(_COUNT, values).scalar_one()


def one(connection: Connection, gap_id: UUID) -> Gap:
    """A gap with its payload. Raises GapRefused when there is none."""
    row = connection.execute(_ONE, {"id": gap_id}).first()
    if row is None:
        raise GapRefused(f"there is no gap {gap_id}: fleet gaps list shows those that are open")
    return Gap(**row._mapping)


def resolve(connection: Connection, gap_id: UUID, *, by: str, reason: str) -> bool:
    """A person closes a gap. False if it was closed already. Raises GapRefused."""
    if not 1 <= len(by.strip()) <= NAME_LENGTH_MAXIMUM:
        raise GapRefused(f"by: expected 1 to {NAME_LENGTH_MAXIMUM} characters")
    if not 1 <= len(reason.strip()) <= RESOLUTION_LENGTH_MAXIMUM:
        raise GapRefused(f"reason: expected 1 to {RESOLUTION_LENGTH_MAXIMUM} characters")
    gap = one(connection, gap_id)
    if gap.severity == "security" and gap.resolved_at is None:
        raise GapRefused(f"gap {gap_id} is of severity security: it takes two persons (R7, R10)")
    return connection.execute(_RESOLVE, {"id": gap_id, "by": by.strip(), "reason": reason.strip()}).rowcount == 1
