"""Rows as the mapping takes them, found by their documents' ObjectIds; and which ObjectId a referred row has."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from bson import ObjectId
from sqlalchemy import Connection, select, text
from sqlalchemy.orm import InstrumentedAttribute, class_mapper

from custody.mirror.agreement.plan import Plan
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Rows
from custody.store.models import Base

Found = dict[str, Any]

_BY_OBJECT_ID: Final = """
    SELECT t.id, t.legacy_object_id AS oid FROM {table} t WHERE t.legacy_object_id = ANY(:ids)
    UNION ALL
    SELECT t.id, m.legacy_object_id FROM public.id_map m JOIN {table} t ON t.id = m.new_id
    WHERE m.collection = :collection AND m.legacy_object_id = ANY(:ids) AND t.legacy_object_id IS NULL
"""
_ROW_OF: Final = """
    SELECT coalesce((SELECT t.id FROM {table} t WHERE t.legacy_object_id = :wanted),
        (SELECT m.new_id FROM public.id_map m WHERE m.collection = :collection AND m.legacy_object_id = :wanted))
"""
_DOCUMENT_OF: Final = """
    SELECT coalesce((SELECT t.legacy_object_id FROM {table} t WHERE t.id = :wanted),
        (SELECT m.legacy_object_id FROM public.id_map m WHERE m.collection = :collection AND m.new_id = :wanted))
"""


@dataclass(slots=True)
class IdMapReferences:
    """ObjectId to UUID and back: a row's own legacy_object_id, or else the one that id_map gave it."""

    connection: Connection
    _known: dict[tuple[str, Any], Any] = field(default_factory=dict[tuple[str, Any], Any])

    def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:
        return self._ask(collection, object_id, self._find_row)

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        return self._ask(collection, row_id, self._find_document)

    def remember(self, collection: str, object_id: ObjectId, row_id: UUID) -> None:
        """What is known already, both ways."""
        self._known[(collection, object_id)] = row_id
        self._known[(collection, row_id)] = object_id

    def _ask(self, collection: str, wanted: Any, find: Any) -> Any:
        key = (collection, wanted)
        if key not in self._known:
            self._known[key] = find(collection, wanted)
        return self._known[key]

    def _find_row(self, collection: str, object_id: ObjectId) -> UUID | None:
        return self._scalar(_ROW_OF, collection, str(object_id))

    def _find_document(self, collection: str, row_id: UUID) -> ObjectId | None:
        found = self._scalar(_DOCUMENT_OF, collection, row_id)
        return ObjectId(found) if isinstance(found, str) and ObjectId.is_valid(found) else None

    def _scalar(self, statement: str, collection: str, wanted: Any) -> Any:
        table = f"public.{COLLECTIONS[collection].table.__tablename__}"
        values = {"collection": collection, "wanted": wanted}
        return self.connection.execute(text(statement.format(table=table)), values).scalar()


def row_ids(connection: Connection, collection: str, object_ids: Sequence[str]) -> dict[str, list[UUID]]:
    """The rows of these documents, by ObjectId. More than one row of a document is a fault that somebody made."""
    statement = text(_BY_OBJECT_ID.format(table=f"public.{COLLECTIONS[collection].table.__tablename__}"))
    found = defaultdict[str, list[UUID]](list)
    for row in connection.execute(statement, {"ids": list(object_ids), "collection": collection}):
        found[row.oid].append(row.id)
    return dict(found)


def load(connection: Connection, plan: Plan, ids: Iterable[UUID]) -> dict[UUID, Rows]:
    """These rows with their children, as ``from_rows`` takes them; without what the session may not read."""
    wanted = list(ids)
    made = {
        row["id"]: Rows(row)
        for row in _select(connection, plan.document.table, "id", wanted, (*plan.columns, "legacy_object_id"))
    }
    for table, parent in plan.children.items():
        for rows in made.values():
            rows.children[table] = []
        for row in _select(connection, table, parent, wanted, None):
            made[row[parent]].children[table].append(row)
    return made


def _select(
    connection: Connection, table: type[Base], key: str, ids: list[UUID], names: Iterable[str] | None
) -> list[Found]:
    attributes: dict[str, InstrumentedAttribute[Any]] = {
        column.name: getattr(table, prop.key) for prop in class_mapper(table).column_attrs for column in prop.columns
    }
    chosen = list(attributes) if names is None else list(dict.fromkeys((*names, key)))
    statement = select(*(attributes[name].label(name) for name in chosen)).where(attributes[key].in_(ids))
    return [dict(row) for row in connection.execute(statement).mappings()]
