"""What a collection's documents become in Postgres, worked out once: tables, columns, and who may change each (R7)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import JSONB

from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Document
from custody.mirror.collections.marks import Owner
from custody.mirror.collections.plan import Step, plan_of
from custody.store.models import Base

STAMPS: Final = ("created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """A column, the field it comes from as MongoDB spells it, and that field's owner."""

    name: str
    field: str
    owner: Owner
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class ChildOf:
    """A child table. ``columns`` are without ``parent``, the column that refers to the document's row."""

    model: type[Base]
    table: str
    field: str
    parent: str
    columns: tuple[ColumnOf, ...]
    owner: Owner
    is_unread: bool = False
    """The session may not read these rows: they are replaced without being compared."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """A reference to the same or a later collection: NULL at first where its row is not there yet."""

    attribute: str
    field: str
    column: str
    collection: str


@dataclass(frozen=True, slots=True)
class Target:
    """A collection's place in Postgres. ``columns`` are without ``id``."""

    kind: type[Document]
    collection: str
    table: str
    columns: tuple[ColumnOf, ...]
    children: tuple[ChildOf, ...]
    deferred: tuple[Deferred, ...]
    unread: frozenset[str] = frozenset()
    """Columns that the session may not read: rows of a table that has any are written without being compared."""
    judged: bool = False
    """What nobody changes was compared before: rows that exist are not compared in it once more."""
    yields: bool = True
    """Rows that Postgres changed meanwhile, or that the mirror has still to write, are left as they are."""

    @property
    def updatable(self) -> tuple[str, ...]:
        """Columns that follow MongoDB in rows that exist; none where everything but the time stamps is the fleet's."""
        found = tuple(column.name for column in self.columns if column.owner is Owner.MONGO)
        return found if set(found) - set(STAMPS) else ()

    @property
    def create_only(self) -> tuple[str, ...]:
        """Columns that nothing changes once the row is made; a document that differs in one is reported."""
        if self.judged:
            return ()
        return tuple(column.name for column in self.columns if column.owner is Owner.CREATE_ONLY)

    def field_of(self, column: str) -> str | None:
        """The field behind a column of the row or of a child, as MongoDB spells it."""
        for each in self.columns:
            if each.name == column:
                return each.field
        for child in self.children:
            for each in child.columns:
                if each.name == column:
                    return f"{child.field}.{each.field}"
        return None


@cache
def target_of(collection: str) -> Target:
    """The place of a collection's documents. Raises KeyError for one that is not migrated."""
    kind = COLLECTIONS[collection]
    order = list(COLLECTIONS)
    deferred = tuple(
        Deferred(step.name, step.alias, step.column, step.refers.collection)
        for step in plan_of(kind)
        if step.refers is not None
        and step.child is None
        and order.index(step.refers.collection) >= order.index(collection)
    )
    return Target(
        kind=kind,
        collection=collection,
        table=_name(kind.table),
        # A row that was found through id_map was born here, and keeps its NULL.
        columns=(ColumnOf("legacy_object_id", "_id", Owner.FLEET), *_columns(kind, kind.table)),
        children=tuple(_children(kind)),
        deferred=deferred,
    )


def _name(model: type[Base]) -> str:
    return f"public.{model.__table__.name}"  # pyright: ignore[reportAttributeAccessIssue]


def _columns(
    part: type[BaseModel], model: type[Base], prefix: str = "", place: str = "", inherited: Owner | None = None
) -> Iterator[ColumnOf]:
    types = {column.name: column.type for column in model.__table__.columns}
    for step in plan_of(part):
        if step.child is not None or (step.name == "id" and issubclass(part, Document)):
            continue
        owner = step.owner or inherited
        if step.inlined is not None:
            assert step.nested is not None
            yield from _columns(step.nested, model, prefix + step.inlined.prefix, f"{place}{step.alias}.", owner)
            continue
        names = step.triple.columns if step.triple is not None else (prefix + step.column,)
        for name in names:
            yield ColumnOf(name, place + step.alias, owner or Owner.MONGO, isinstance(types[name], JSONB))


def _children(kind: type[Document]) -> Iterator[ChildOf]:
    for step in plan_of(kind):
        if step.child is not None:
            model = step.child.table
            yield ChildOf(
                model,
                _name(model),
                step.alias,
                step.child.parent,
                _child_columns(step, model),
                step.owner or Owner.MONGO,
            )


def _child_columns(step: Step, model: type[Base]) -> tuple[ColumnOf, ...]:
    assert step.child is not None
    own = () if step.child.ordinal is None else (ColumnOf(step.child.ordinal, step.alias, Owner.MONGO),)
    if step.nested is None:
        return (*own, ColumnOf(step.column, step.alias, Owner.MONGO))
    return (*own, *_columns(step.nested, model))
