"""The mirror's rows of fleet.outbox: claimed under a lease, then deleted, put off, or given up where people see it."""

import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from bson import json_util
from sqlalchemy import Connection, text

from custody.store.work import backoff_seconds, bury

LEASE_SECONDS: Final = 10
"""A mirror that dies leaves its rows to the next one after this. A slower one writes twice, which versions make harmless."""

PAYLOAD_LENGTH_MAXIMUM: Final = 60_000  # of a refused document, kept for the person who repairs it

_CLAIM = text(
    """
    WITH due AS (
        SELECT id FROM fleet.outbox
        WHERE queue = 'mirror' AND run_after <= clock_timestamp()
        ORDER BY run_after, id LIMIT :limit FOR UPDATE SKIP LOCKED)
    UPDATE fleet.outbox o
    SET run_after = clock_timestamp() + make_interval(secs => :lease), attempts = o.attempts + 1
    FROM due WHERE o.id = due.id
    RETURNING o.id, o.collection, o.document_id, o.attempts
    """
)
_VERSION = text("SELECT nextval('fleet.mirror_versions')")
_DELETE = text("DELETE FROM fleet.outbox WHERE id = ANY(:ids)")
_PUT_OFF = text(
    "UPDATE fleet.outbox SET run_after = clock_timestamp() + make_interval(secs => :wait), last_error = :error "
    "WHERE id = :id"
)
_GAP = text(
    """
    INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason)
    SELECT :collection, :op, :object_id, CAST(:payload AS jsonb), :severity, :reason
    WHERE NOT EXISTS (
        SELECT FROM public.pg_dualwrite_gaps g
        WHERE g.collection = :collection AND g.op = :op AND g.legacy_object_id IS NOT DISTINCT FROM :object_id
          AND g.reason = :reason AND g.resolved_at IS NULL)
    """
)
_GAPS_CLOSED = text(
    """
    UPDATE public.pg_dualwrite_gaps
    SET resolved_at = clock_timestamp(), resolved_by = 'fleet_mirror', resolution = 'a later write of it succeeded'
    WHERE resolved_at IS NULL AND op = :op AND collection = :collection AND legacy_object_id = ANY(:object_ids)
      AND severity <> 'security'
    """
)
_DEAD_CLOSED = text(
    """
    UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'fleet_mirror'
    WHERE resolved_at IS NULL AND queue = 'mirror' AND subject_kind = :collection AND subject_id = ANY(:ids)
    """
)
OP: Final = "mirror"


@dataclass(slots=True)
class Claimed:
    """One document to write, and the outbox rows that asked for it."""

    collection: str
    document_id: UUID
    row_ids: list[int]
    attempts: int


def claim(connection: Connection, limit: int) -> tuple[list[Claimed], int]:
    """Lease due rows, and then draw the version their writes carry.

    In this order, and with the state read afterwards, a higher version's state is never older than what a lower
    version's rows asked for; so a row may go as soon as its version, or a higher one, stands in MongoDB (L17).
    """
    found: dict[tuple[str, UUID], Claimed] = {}
    for row in connection.execute(_CLAIM, {"limit": limit, "lease": LEASE_SECONDS}):
        key = (row.collection, row.document_id)
        claimed = found.setdefault(key, Claimed(row.collection, row.document_id, [], 0))
        claimed.row_ids.append(row.id)
        claimed.attempts = max(claimed.attempts, row.attempts)
    version: int = connection.execute(_VERSION).scalar_one() if found else 0
    return list(found.values()), version


def finish(connection: Connection, done: list[tuple[Claimed, str]]) -> None:
    """Delete the rows of written documents ((claim, ObjectId) each) and close what had been reported about them."""
    if not done:
        return
    connection.execute(_DELETE, {"ids": sorted(row for claimed, _ in done for row in claimed.row_ids)})
    for collection in sorted({claimed.collection for claimed, _ in done}):
        mine = [(str(c.document_id), object_id) for c, object_id in done if c.collection == collection]
        connection.execute(_GAPS_CLOSED, {"collection": collection, "op": OP, "object_ids": [pair[1] for pair in mine]})
        connection.execute(_DEAD_CLOSED, {"collection": collection, "ids": [pair[0] for pair in mine]})


def put_off(connection: Connection, claims: list[Claimed], error: str) -> None:
    """Try these again later: 1, 2, 4 .. 300 seconds."""
    for claimed in sorted(claims, key=lambda item: item.row_ids):
        for row_id in claimed.row_ids:
            connection.execute(
                _PUT_OFF, {"id": row_id, "wait": backoff_seconds(claimed.attempts), "error": error[:500]}
            )


def give_up(connection: Connection, claimed: Claimed, *, object_id: str | None, update: Any, reason: str) -> None:
    """A document that MongoDB refuses, whatever is tried: a gap row with the write itself, and dead work.

    The next change of the row asks again; so may an operator.
    """
    payload = json_util.dumps(update, json_options=json_util.RELAXED_JSON_OPTIONS)
    if len(payload) > PAYLOAD_LENGTH_MAXIMUM:
        payload = json.dumps({"too_long": len(payload)})
    connection.execute(
        _GAP,
        {
            "collection": claimed.collection,
            "op": OP,
            "object_id": object_id,
            "payload": payload,
            "severity": "error",
            "reason": reason[:2000],
        },
    )
    bury(
        connection,
        queue="mirror",
        subject_kind=claimed.collection,
        subject_id=claimed.document_id,
        reason=reason,
        unblocks="repair what the reason names; then the row's next change, or a new row in fleet.outbox "
        "(queue mirror, this collection and id), writes it",
        attempts=claimed.attempts,
        payment_id=claimed.document_id if claimed.collection == "payments" else None,
    )
    connection.execute(_DELETE, {"ids": claimed.row_ids})
