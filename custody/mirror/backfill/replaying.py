"""A gap's document once more, from what MongoDB says of it now."""

from collections.abc import Sequence
from typing import Any, Final

from bson import ObjectId, json_util
from bson.errors import BSONError
from pymongo.database import Database
from sqlalchemy import Engine, text

from custody.mirror import gaps
from custody.mirror.backfill.applying import OP, apply
from custody.mirror.backfill.later_references import apply_references
from custody.mirror.backfill.reading import read_one
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.running import owning
from custody.mirror.backfill.targets import target_of
from custody.mirror.collections import COLLECTIONS
from custody.store.engine import transaction
from custody.store.mongo import Document

HEALED_MAXIMUM: Final = 10_000
"""Gaps that the end of a backfill tries once more, each in its own transaction: about a minute."""


def replay(engine: Engine, database: Database[Document], gap: gaps.Gap) -> str | None:
    """Bring the gap's document over again. None when the gap is closed now, else what stands against it.

    Raises GapRefused for a gap that is no document's of a backfill.
    """
    if gap.op != OP or gap.collection not in COLLECTIONS or gap.object_id is None:
        raise gaps.GapRefused(
            f"gap {gap.id} is of {gap.op!r} in {gap.collection}: only those of a backfill are brought over again; the mirror "
            "writes a row again at its next change"
        )
    target = target_of(gap.collection)
    with engine.connect() as connection:
        read_at = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    item = read_one(database, target.kind, _id_of(gap.object_id))
    if item is None:
        return "the document is no longer in MongoDB: close the gap with fleet gaps resolve, and say why"
    resolver = Resolver()
    with owning(engine) as connection:
        outcome = apply(connection, target, [item], resolver, read_at)
        if outcome.waiting:
            apply_references(connection, target, [item], resolver)
        if gaps.one(connection, gap.id).resolved_at is not None and not outcome.refused:
            return None
    if outcome.refused:
        return outcome.refused[0].reason
    if gap.severity == "security":
        return f"its document was brought over; two persons close the gap: fleet gaps resolve {gap.id}"
    return gap.reason


def heal(engine: Engine, database: Database[Document], collections: Sequence[str]) -> int:
    """Try those open gaps again that another document's arrival may have healed, until none does. Returns how many are closed."""
    closed = 0
    while True:
        now = 0
        for collection in collections:
            with transaction(engine) as connection:
                waiting = gaps.listed(
                    connection, collection=collection, severity="warning", op=OP, limit=HEALED_MAXIMUM
                )
            now += sum(replay(engine, database, gap) is None for gap in waiting)
        closed += now
        if now == 0:
            return closed


def _id_of(key: str) -> Any:
    if ObjectId.is_valid(key):
        return ObjectId(key)
    try:
        return json_util.loads(key)
    except (ValueError, BSONError):
        return key
