"""A collection's document: each field of it named once, with its type, its column and who owns it (R7).

A class is the whole mapping of its collection. A field goes to the column of its own name unless ``Column`` says
otherwise; ``Refers`` makes an ObjectId the UUID of another collection's row; ``Inlined`` and ``Child`` place a nested
document in columns or in a table of its own. What is left out of Postgres stands in ``dropped``, with the reason.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Final, Protocol, cast
from uuid import UUID

from bson import ObjectId
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from custody.mirror.collections.marks import Polymorphic
from custody.mirror.collections.plan import Step, aliases_of, plan_of, referring_of
from custody.mirror.collections.values import Id, Time
from custody.store.models import Base


class Unmappable(ValueError):
    """A document or row that cannot be brought over. ``where`` is the field or column; the message says what was expected."""

    def __init__(self, where: str, expected: str) -> None:
        super().__init__(f"{where}: {expected}")
        self.where = where


class NotBroughtOver(Unmappable):
    """A reference to a document that has no row: another try succeeds once it has one."""


class References(Protocol):
    """ObjectId to UUID and back, by id_map."""

    def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:
        """The row of a document; None while it was not brought over."""
        ...

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        """The document of a row."""
        ...


@dataclass(slots=True)
class Rows:
    """What one document becomes: its row's columns, and the rows of each child table, in order."""

    columns: dict[str, Any]
    children: dict[type[Base], list[dict[str, Any]]] = field(default_factory=dict[type[Base], list[dict[str, Any]]])


class Nested(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, arbitrary_types_allowed=True, extra="ignore", frozen=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, value: Any) -> Any:
        # Most documents leave a missing field out: only those that do not are copied.
        if isinstance(value, Mapping) and None in value.values():
            return {name: item for name, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType]
        return value


class Document(Nested):
    """A document of one collection. ``id`` is its _id."""

    collection: ClassVar[str]
    table: ClassVar[type[Base]]
    dropped: ClassVar[Mapping[str, str]] = {}
    """Fields that Postgres does not get, and why."""

    id: Id


_IDENTITY: Final = ("id",)
_OF_MONGOOSE: Final = frozenset({"_id", "__v"})


def read(document_type: type[Document], document: Mapping[str, Any]) -> Document:
    """The typed document. Raises Unmappable with the first field that is not as expected."""
    renamed = {("id" if name == "_id" else name): value for name, value in document.items()}
    try:
        return document_type.model_validate(renamed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unmappable("_id" if where == "id" else where, first["msg"].removeprefix("Value error, ")) from None


def unknown_fields(document_type: type[Document], document: Mapping[str, Any]) -> list[str]:
    """Fields that the mapping does not know: neither mapped nor dropped on purpose."""
    return sorted(document.keys() - _known(document_type))


@cache
def _known(document_type: type[Document]) -> frozenset[str]:
    return aliases_of(document_type) | _OF_MONGOOSE | frozenset(document_type.dropped)


def to_rows(document: Document, references: References, *, without: Collection[str] = ()) -> Rows:
    """The row and its children; ``without``: attributes whose columns the caller fills by itself.

    Raises Unmappable for a reference whose row is not there yet.
    """
    rows = Rows({"legacy_object_id": str(document.id)})
    _spread(document, rows, rows.columns, "", "", references, skip=(*_IDENTITY, *without))
    return rows


def references_of(part: Nested) -> Iterator[tuple[str, ObjectId]]:
    """Every (collection, ObjectId) that ``to_rows`` will ask for."""
    for step in referring_of(type(part)):
        value = getattr(part, step.name)
        if value is None:
            continue
        if step.refers is not None:
            for item in cast("list[ObjectId]", value) if step.is_list else (value,):
                yield step.refers.collection, item
        elif step.triple is not None:
            if isinstance(value, ObjectId):
                yield step.triple.collection, value
        elif step.chosen is not None:
            yield step.chosen.collections[getattr(part, step.chosen.discriminator)], value
        elif step.nested is not None:
            for item in cast("list[Nested]", value) if step.is_list else (value,):
                yield from references_of(item)


def from_rows(document_type: type[Document], rows: Rows, references: References) -> dict[str, Any]:
    """The document as MongoDB keeps it; what is NULL is absent. Raises Unmappable."""
    legacy = rows.columns.get("legacy_object_id")
    if not isinstance(legacy, str) or not ObjectId.is_valid(legacy):
        raise Unmappable("legacy_object_id", f"expected 24 hex digits, got {legacy!r}")
    gathered = _gather(document_type, rows, rows.columns, "", references, skip=_IDENTITY)
    return {"_id": ObjectId(legacy), **gathered}


def as_stored(document: Document) -> dict[str, Any]:
    """The document as MongoDB would keep it, defaults filled in."""
    return {"_id": document.id, **_plain(document, skip=_IDENTITY)}


# From fields to columns ------------------------------------------------------------------------------------------


def _spread(
    part: Nested,
    rows: Rows,
    columns: dict[str, Any],
    prefix: str,
    where: str,
    references: References,
    skip: Collection[str] = (),
) -> None:
    for step in plan_of(type(part)):
        if step.name in skip:
            continue
        value = getattr(part, step.name)
        if step.inlined is not None:
            if value is not None:
                _spread(value, rows, columns, prefix + step.inlined.prefix, f"{where}{step.alias}.", references)
        elif step.child is not None:
            _spread_children(value, step, rows, where + step.alias, references)
        elif step.triple is not None:
            columns.update(_triple(value, step.triple, where + step.alias, references))
        elif step.chosen is not None:
            collection = step.chosen.collections[getattr(part, step.chosen.discriminator)]
            columns[prefix + step.column] = _row_of(collection, value, where + step.alias, references)
        elif step.refers is not None:
            columns[prefix + step.column] = (
                None if value is None else _row_of(step.refers.collection, value, where + step.alias, references)
            )
        else:
            columns[prefix + step.column] = (
                value if value is None or step.stored is None else step.stored.to_column(value)
            )


def _spread_children(value: Any, step: Step, rows: Rows, place: str, references: References) -> None:
    child = step.child
    assert child is not None
    items: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    made = rows.children.setdefault(child.table, [])
    for ordinal, item in enumerate(items):
        columns: dict[str, Any] = {}
        if child.ordinal is not None:
            columns[child.ordinal] = ordinal
        if isinstance(item, Nested):
            _spread(item, rows, columns, "", f"{place}.{ordinal}.", references)
        else:
            assert step.refers is not None
            columns[step.column] = _row_of(step.refers.collection, item, f"{place}.{ordinal}", references)
        made.append(columns)


def _triple(value: Any, triple: Polymorphic, place: str, references: References) -> dict[str, Any]:
    names = triple.columns
    if value is None:
        return dict.fromkeys(names)
    if isinstance(value, str):
        return dict(zip(names, ("template", None, value), strict=True))
    return dict(zip(names, ("entity", _row_of(triple.collection, value, place, references), None), strict=True))


def _row_of(collection: str, object_id: ObjectId, place: str, references: References) -> UUID:
    found = references.uuid(collection, object_id)
    if found is None:
        raise NotBroughtOver(place, f"{collection} {object_id} was not brought over yet")
    return found


# From columns to fields ------------------------------------------------------------------------------------------


def _gather(
    part: type[BaseModel],
    rows: Rows,
    columns: Mapping[str, Any],
    prefix: str,
    references: References,
    skip: tuple[str, ...] = (),
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for step in plan_of(part):
        if step.name in skip:
            continue
        column = prefix + step.column
        if step.inlined is not None:
            assert step.nested is not None
            value: Any = _gather(step.nested, rows, columns, prefix + step.inlined.prefix, references) or None
        elif step.child is not None:
            value = _gather_children(step, rows, references)
        elif step.triple is not None:
            value = _mixed_of(columns, step.triple, references)
        elif step.chosen is not None:
            value = _document_of(
                step.chosen.collections[columns[step.chosen.discriminator]], columns[column], references
            )
        elif step.refers is not None:
            value = (
                None
                if columns.get(column) is None
                else _document_of(step.refers.collection, columns[column], references)
            )
        else:
            value = columns.get(column)
            value = value if value is None or step.stored is None else step.stored.to_field(value)
        if value is not None:
            made[step.alias] = value
    return made


def _gather_children(step: Step, rows: Rows, references: References) -> Any:
    child = step.child
    assert child is not None
    found = rows.children.get(child.table, [])
    if (ordinal := child.ordinal) is not None:
        found = sorted(found, key=lambda row: row[ordinal])
    if step.refers is not None:
        made: list[Any] = [_document_of(step.refers.collection, row[step.column], references) for row in found]
    else:
        assert step.nested is not None
        made = [_gather(step.nested, rows, row, "", references) for row in found]
    return made if step.is_list else (made[0] if made else None)


def _mixed_of(columns: Mapping[str, Any], triple: Polymorphic, references: References) -> ObjectId | str | None:
    kind, row_id, external = triple.columns
    if columns.get(kind) == "template":
        return columns[external]
    found = columns.get(row_id)
    return None if found is None else _document_of(triple.collection, found, references)


def _document_of(collection: str, row_id: UUID, references: References) -> ObjectId:
    found = references.object_id(collection, row_id)
    if found is None:
        raise Unmappable(collection, f"row {row_id} has no ObjectId")
    return found


def _plain(part: Nested, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for step in plan_of(type(part)):
        value = getattr(part, step.name)
        if step.name in skip or value is None:
            continue
        if isinstance(value, Nested):
            value = _plain(value) or None
        elif isinstance(value, list) and step.stored is None:
            value = [
                _plain(item) if isinstance(item, Nested) else item  # pyright: ignore[reportUnknownVariableType]
                for item in value  # pyright: ignore[reportUnknownVariableType]
            ]
        elif step.stored is not None:
            value = step.stored.to_field(step.stored.to_column(value))
        if value is not None:
            made[step.alias] = value
    return made


class Stamped(Document):
    """A document with mongoose's timestamps."""

    created_at: Time
    updated_at: Time
