"""What Postgres has of MongoDB's documents, as documents again, and how they differ from MongoDB's own."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.database import Database
from sqlalchemy import Connection, text

from custody.mirror.backfill.targets import ChildOf, target_of
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Rows, as_stored, from_rows, read

Mongo = Database[dict[str, Any]]


@dataclass
class ByIdMap:
    """Both ways through id_map."""

    connection: Connection

    def __post_init__(self) -> None:
        rows = self.connection.execute(text("SELECT collection, legacy_object_id, new_id FROM public.id_map")).all()
        self._there = {(row.collection, row.legacy_object_id): row.new_id for row in rows}
        self._back = {(row.collection, row.new_id): row.legacy_object_id for row in rows}

    def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:
        return self._there.get((collection, str(object_id)))

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        found = self._back.get((collection, row_id))
        return None if found is None else ObjectId(found)


def rows_of(connection: Connection, collection: str) -> dict[UUID, Rows]:
    target = target_of(collection)
    found = {
        row.id: Rows(dict(row._mapping)) for row in connection.execute(text(f"SELECT * FROM {target.table}")).all()
    }
    for child in target.children:
        for rows in found.values():
            rows.children[child.model] = []
        for row in connection.execute(text(f"SELECT * FROM {child.table}")).all():
            found[getattr(row, child.parent)].children[child.model].append(dict(row._mapping))
    return found


def differences(connection: Connection, mongo: Mongo) -> list[str]:
    """Every document that Postgres has otherwise, or not at all; and every row of no document."""
    references = ByIdMap(connection)
    wrong: list[str] = []
    for collection, kind in COLLECTIONS.items():
        rows = rows_of(connection, collection)
        there = {
            document["_id"]: document
            for each in rows.values()
            for document in [as_stored(read(kind, from_rows(kind, each, references)))]
        }
        utc = mongo.with_options(codec_options=CodecOptions[dict[str, Any]](tz_aware=True))
        for raw in utc[collection].find():
            expected = as_stored(read(kind, raw))
            found = there.pop(raw["_id"], None)
            if _sorted(expected, target_of(collection).children) != _sorted(
                found or {}, target_of(collection).children
            ):
                wrong.append(f"{collection} {raw['_id']}: expected {expected}, found {found}")
            row_id = references.uuid(collection, raw["_id"])
            if row_id is None or rows[row_id].columns["legacy_object_id"] != str(raw["_id"]):
                wrong.append(f"{collection} {raw['_id']}: not in id_map as its row is")
        wrong += [f"{collection} {object_id}: in Postgres alone" for object_id in there]
    return wrong


def _sorted(document: dict[str, Any], children: tuple[ChildOf, ...]) -> dict[str, Any]:
    """Lists whose order no column keeps, in one order; an empty list is the same as none."""
    made = {name: value for name, value in document.items() if value != []}
    for child in children:
        if isinstance(value := made.get(child.field), list) and not any(c.name == "ordinal" for c in child.columns):
            made[child.field] = sorted(value, key=repr)
    return made
