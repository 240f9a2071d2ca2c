"""Documents that MongoDB has no more: the row goes where nothing else needs it, and is a gap where it may not."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.mirror import gaps
from custody.mirror.backfill.references import existing_rows
from custody.mirror.backfill.targets import target_of
from custody.mirror.collections.marks import Owner
from custody.mirror.following import securing
from custody.mirror.following.changes import Change
from custody.mirror.following.rights import OP, is_removable, owners_of
from custody.mirror.following.securing import Tampered

log = structlog.get_logger(__name__)

GONE: Final = "_id: the document was deleted in MongoDB, and its row stays"
COLLECTION: Final = "*"
"""What stands for a document's _id in the gap of a whole collection."""

_STOPS_MONEY: Final = frozenset({"disputes"})
"""R14: MongoDB's, but without them a payment looks as if nobody disputed it."""


def remove(connection: Connection, collection: str, gone: Sequence[Change]) -> int:
    """Delete the rows of these documents, or report those that stay. Returns how many were deleted."""
    if not gone:
        return 0
    rows = existing_rows(connection, collection, [each.key for each in gone])
    absent = [each.key for each in gone if each.key not in rows]
    gaps.close(connection, OP, collection, absent, resolution="the document is gone from both")
    there = [each for each in gone if each.key in rows]
    if not there:
        return 0
    if is_removable(collection):
        ids = [rows[each.key] for each in there]
        table = target_of(collection).table
        statement = text(f"DELETE FROM {table} WHERE id = ANY(CAST(:ids AS uuid[]))")  # noqa: S608 - the mapping's name
        gaps.close(
            connection, OP, collection, [each.key for each in there], resolution="the document is gone from both"
        )
        return connection.execute(statement, {"ids": ids}).rowcount
    _report(connection, collection, there, rows)
    return 0


def _report(connection: Connection, collection: str, there: Sequence[Change], rows: Mapping[str, UUID]) -> None:
    payloads = {each.key: json.dumps({"row": str(rows[each.key])}) for each in there}
    if Owner.FLEET in owners_of(collection):
        found = [Tampered(each.key, GONE, payloads[each.key], each.written_at) for each in there]
        for key in securing.report(connection, collection, found):
            log.error(
                "mirror_tampered", collection=collection, document=key, unblocks="fleet gaps list --severity security"
            )
        return
    reports = [gaps.Report(each.key, "error", GONE, payloads[each.key]) for each in there]
    gaps.report(connection, OP, collection, reports)


def report_dropped(connection: Connection, collection: str, what: str, at: datetime) -> None:
    """A whole collection went at once, and no event names its documents: their rows stay, and where it says who is paid
    every payment waits."""
    log.error("mirror_collection_gone", collection=collection, what=what,
              unblocks=f"bring it back, then fleet mirror verify --collection {collection}")  # fmt: skip
    is_money = Owner.FLEET in owners_of(collection) or collection in _STOPS_MONEY
    severity: gaps.Severity = "security" if is_money else "error"
    reason = f"_id: the collection was gone at {at:%Y-%m-%dT%H:%M:%SZ} ({what} in MongoDB), and its rows stay"
    gaps.report(connection, OP, collection, [gaps.Report(COLLECTION, severity, reason, "{}")])
