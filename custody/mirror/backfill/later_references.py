"""The second pass: references to the same or a later collection, set once every row is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from pymongo.database import Database
from sqlalchemy import Connection, text

from custody.mirror import gaps
from custody.mirror.backfill.reading import Batch, Item, read_parts
from custody.mirror.backfill.references import Resolver, existing_rows
from custody.mirror.backfill.targets import Deferred, Target
from custody.store.mongo import Document

OP = "backfill"


@dataclass(slots=True)
class Referred:
    """How many references were set, how many have no row to refer to, and the documents of those."""

    updated: int = 0
    refused: int = 0
    waiting: set[str] = field(default_factory=set[str])


def read_referring(
    database: Database[Document], target: Target, *, after: Any, condition: Mapping[str, Any], limit: int
) -> Batch:
    """The next documents that refer to the same or a later collection."""
    fields = [each.field for each in target.deferred]
    referring = {"$or": [{name: {"$ne": None}} for name in fields]}
    return read_parts(
        database, target.kind, fields, after=after, condition={"$and": [referring, condition]}, limit=limit
    )


def apply_references(
    connection: Connection, target: Target, items: Sequence[Item], resolver: Resolver, *, op: str = OP
) -> Referred:
    """Set these documents' references where they differ; report those whose row is not there. A document without a row is
    passed over: what it lacks is reported already.
    """
    rows = existing_rows(connection, target.collection, [item.key for item in items])
    there = [(item, item.decoded() or {}) for item in items if item.key in rows]
    referred = Referred()
    for reference in target.deferred:
        wanted = [
            (item, object_id) for item, document in there if (object_id := _object_id(document.get(reference.field)))
        ]
        resolver.learn(connection, ((reference.collection, object_id) for _, object_id in wanted))
        set_now: dict[str, Any] = {}
        missing: list[gaps.Report] = []
        for item, object_id in wanted:
            row_id = resolver.uuid(reference.collection, object_id)
            if row_id is None:
                reason = f"{reference.field}: {reference.collection} {object_id} was not brought over yet"
                payload = gaps.payload_of(item.decoded(), len(item.raw))
                missing.append(gaps.Report(item.key, "warning", reason, payload))
            else:
                set_now[item.key] = row_id
        referred.updated += _set(connection, target, reference, [(rows[key], each) for key, each in set_now.items()])
        referred.refused += len(missing)
        referred.waiting |= {each.object_id for each in missing}
        place = f"{reference.field}: "
        gaps.report(connection, op, target.collection, missing, only=place)
        gaps.close(connection, op, target.collection, list(set_now), only=place)
    return referred


def _object_id(value: Any) -> ObjectId | None:
    # As the mapping reads it; what is neither was reported by the first pass.
    if isinstance(value, ObjectId):
        return value
    return ObjectId(value) if isinstance(value, str) and ObjectId.is_valid(value) else None


def _set(connection: Connection, target: Target, reference: Deferred, pairs: list[tuple[Any, Any]]) -> int:
    if not pairs:
        return 0
    statement = text(
        f"""
        UPDATE {target.table} t SET {reference.column} = n.referred
        FROM unnest(CAST(:ids AS uuid[]), CAST(:referred AS uuid[])) AS n(id, referred)
        WHERE t.id = n.id AND t.{reference.column} IS DISTINCT FROM n.referred AND NOT fleet.is_cut_over('{target.collection}')
        """  # noqa: S608 - the names are the mapping's
    )
    ids, referred = zip(*pairs, strict=True)
    return connection.execute(statement, {"ids": list(ids), "referred": list(referred)}).rowcount
