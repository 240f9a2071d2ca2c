"""Security gaps of following (R7): written once, closed by persons alone, and while one is open its document stays as it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from custody.mirror.following.rights import OP
from custody.mirror.gaps import REASON_LENGTH_MAXIMUM

OPEN_MAXIMUM: Final = 20
"""Security gaps of one document that are open at once: who changes it in ever new ways fills no table."""

_OPEN: Final = text(
    """
    SELECT legacy_object_id, op, severity FROM public.pg_dualwrite_gaps
    WHERE resolved_at IS NULL AND collection = :collection AND legacy_object_id = ANY(:object_ids)
    """
)
# What persons have closed stands for the document as they saw it: written again, it is reported again.
_REPORT: Final = text(
    """
    INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason)
    SELECT :collection, :op, n.object_id, CAST(n.payload AS jsonb), 'security', n.reason
    FROM unnest(CAST(:object_ids AS text[]), CAST(:payloads AS text[]), CAST(:reasons AS text[]),
                CAST(:written AS timestamptz[])) AS n(object_id, payload, reason, written_at)
    WHERE NOT EXISTS (
            SELECT FROM public.pg_dualwrite_gaps g
            WHERE g.resolved_at IS NULL AND g.severity = 'security' AND g.collection = :collection
              AND g.legacy_object_id = n.object_id AND g.reason = n.reason)
        AND NOT EXISTS (
            SELECT FROM public.pg_dualwrite_gaps g
            WHERE g.resolved_at IS NOT NULL AND g.severity = 'security' AND g.collection = :collection
              AND g.legacy_object_id = n.object_id AND g.reason = n.reason AND g.payload = CAST(n.payload AS jsonb)
              AND (n.written_at IS NULL OR g.resolved_at >= n.written_at))
        AND (SELECT count(*) FROM public.pg_dualwrite_gaps g
             WHERE g.resolved_at IS NULL AND g.severity = 'security' AND g.collection = :collection
               AND g.legacy_object_id = n.object_id) < :most
    RETURNING legacy_object_id
    """
)


@dataclass(frozen=True, slots=True)
class Tampered:
    """A document that somebody changed where only the fleet may. ``written_at``: when it was last written, if that is known."""

    object_id: str
    reason: str
    payload: str
    written_at: datetime | None = None


@dataclass(slots=True)
class Open:
    """Documents with open gaps. ``frozen``: a security gap, whoever found it; ``followed``: one of following; ``given_up``:
    MongoDB refused them from the mirror, so that what it has is older, and nobody's doing."""

    frozen: set[str] = field(default_factory=set[str])
    followed: set[str] = field(default_factory=set[str])
    given_up: set[str] = field(default_factory=set[str])


def open_gaps(connection: Connection, collection: str, object_ids: Sequence[str]) -> Open:
    """Those of these documents that have any."""
    found = Open()
    for row in connection.execute(_OPEN, {"collection": collection, "object_ids": list(object_ids)}):
        if row.severity == "security":
            found.frozen.add(row.legacy_object_id)
        if row.op == OP:
            found.followed.add(row.legacy_object_id)
        if row.op == "mirror":
            found.given_up.add(row.legacy_object_id)
    return found


def report(connection: Connection, collection: str, found: Sequence[Tampered]) -> list[str]:
    """Write what is not reported yet. Returns the documents of new gaps; their alarms ring by the table's trigger."""
    if not found:
        return []
    values = {
        "collection": collection,
        "op": OP,
        "most": OPEN_MAXIMUM,
        "object_ids": [each.object_id for each in found],
        "payloads": [each.payload for each in found],
        "reasons": [each.reason.replace("\x00", "\ufffd")[:REASON_LENGTH_MAXIMUM] for each in found],
        "written": [each.written_at for each in found],
    }
    return list(connection.execute(_REPORT, values).scalars())
