"""A collection's document: each field of it named once, with its type, its column and who owns it (R7).

A class is the whole mapping of its collection. A field goes to the column of its own name unless ``Column`` says
otherwise; ``Refers`` makes an ObjectId the UUID of another collection's row; ``Inlined`` and ``Child`` place a nested
document in columns or in a table of its own. What is left out of Postgres stands in ``dropped``, with the reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final, Literal, Protocol, get_args, get_origin
from uuid import UUID

from bson import ObjectId
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from custody.mirror.collections.values import Id, Stored, Time
from custody.store.models import Base


class Owner(Enum):
    """Who may change a field after its document was made (R7)."""

    MONGO = "mongo"
    FLEET = "fleet"
    CREATE_ONLY = "create_only"


@dataclass(frozen=True, slots=True)
class Column:
    """The column, where it has another name than the field."""

    name: str


@dataclass(frozen=True, slots=True)
class Refers:
    """The field is the ObjectId of a document in ``collection``; the column holds its row's UUID."""

    collection: str


@dataclass(frozen=True, slots=True)
class RefersBy:
    """As ``Refers``; which collection, another field says: ``collections`` by the value of ``discriminator``."""

    discriminator: str
    collections: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Polymorphic:
    """The seed's triple: ``<prefix>_ref_kind``, ``<prefix>_id`` and ``<prefix>_external_ref``."""

    prefix: str
    collection: str


@dataclass(frozen=True, slots=True)
class Inlined:
    """A nested document in columns of the same row, each with ``prefix`` before its name."""

    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Child:
    """A nested document, or a list of them, in rows of ``table``, which refer to their parent by ``parent``."""

    table: type[Base]
    parent: str
    ordinal: str | None = None
    """The column that keeps a list's order."""


class Unmappable(ValueError):
    """A document or row that cannot be brought over. ``where`` is the field or column; the message says what was expected."""

    def __init__(self, where: str, expected: str) -> None:
        super().__init__(f"{where}: {expected}")
        self.where = where


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
        if isinstance(value, Mapping):
            return {name: item for name, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType]
        return value

    @classmethod
    def known_fields(cls) -> frozenset[str]:
        """The field names in MongoDB."""
        return frozenset(_alias(name, info) for name, info in cls.model_fields.items())


class Document(Nested):
    """A document of one collection. ``id`` is its _id."""

    collection: ClassVar[str]
    table: ClassVar[type[Base]]
    dropped: ClassVar[Mapping[str, str]] = {}
    """Fields that Postgres does not get, and why."""

    id: Id


_IDENTITY: Final = ("id",)


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
    known = document_type.known_fields() | set(document_type.dropped) | {"_id", "__v"}
    return sorted(set(document) - known)


def to_rows(document: Document, references: References) -> Rows:
    """The row and its children. Raises Unmappable for a reference whose row is not there yet."""
    rows = Rows({"legacy_object_id": str(document.id)})
    _spread(document, rows, rows.columns, "", "", references, skip=_IDENTITY)
    return rows


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


def _alias(name: str, info: FieldInfo) -> str:
    return info.alias or to_camel(name)


def _mark(info: FieldInfo, kind: type[Any]) -> Any:
    for mark in _metadata(info):
        if isinstance(mark, kind):
            return mark
    return None


def _metadata(info: FieldInfo) -> Iterable[Any]:
    """The field's own marks, then those of the types inside it (``Money | None``, ``list[Sweep]``)."""
    yield from info.metadata
    yield from _inner_metadata(info.annotation)


def _inner_metadata(annotation: Any) -> Iterable[Any]:
    yield from getattr(annotation, "__metadata__", ())
    if get_origin(annotation) not in (None, Literal, list, dict):
        for argument in get_args(annotation):
            yield from _inner_metadata(argument)


def _nested_type(annotation: Any) -> type[Nested]:
    if isinstance(annotation, type) and issubclass(annotation, Nested):
        return annotation
    for argument in get_args(annotation):
        found = _nested_type(argument) if argument is not type(None) else None
        if found is not None:
            return found
    raise TypeError(f"expected a nested document, got {annotation}")


def _spread(
    part: Nested,
    rows: Rows,
    columns: dict[str, Any],
    prefix: str,
    where: str,
    references: References,
    skip: tuple[str, ...] = (),
) -> None:
    for name, info in type(part).model_fields.items():
        if name in skip:
            continue
        value = getattr(part, name)
        place = where + _alias(name, info)
        column = prefix + (mark.name if (mark := _mark(info, Column)) else name)
        if inlined := _mark(info, Inlined):
            if value is not None:
                _spread(value, rows, columns, prefix + inlined.prefix, f"{place}.", references)
        elif child := _mark(info, Child):
            _spread_children(value, info, child, rows, place, references)
        elif triple := _mark(info, Polymorphic):
            columns.update(_triple(value, triple, place, references))
        elif chosen := _mark(info, RefersBy):
            collection = chosen.collections[getattr(part, chosen.discriminator)]
            columns[column] = _row_of(collection, value, place, references)
        elif refers := _mark(info, Refers):
            columns[column] = None if value is None else _row_of(refers.collection, value, place, references)
        else:
            stored = _mark(info, Stored)
            columns[column] = value if value is None or stored is None else stored.to_column(value)


def _spread_children(value: Any, info: FieldInfo, child: Child, rows: Rows, place: str, references: References) -> None:
    items: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    made = rows.children.setdefault(child.table, [])
    for ordinal, item in enumerate(items):
        columns: dict[str, Any] = {}
        if child.ordinal is not None:
            columns[child.ordinal] = ordinal
        if isinstance(item, Nested):
            _spread(item, rows, columns, "", f"{place}.{ordinal}.", references)
        else:
            refers = _mark(info, Refers)
            columns[_mark(info, Column).name] = _row_of(refers.collection, item, f"{place}.{ordinal}", references)
        made.append(columns)


def _triple(value: Any, triple: Polymorphic, place: str, references: References) -> dict[str, Any]:
    names = tuple(f"{triple.prefix}_{part}" for part in ("ref_kind", "id", "external_ref"))
    if value is None:
        return dict.fromkeys(names)
    if isinstance(value, str):
        return dict(zip(names, ("template", None, value), strict=True))
    return dict(zip(names, ("entity", _row_of(triple.collection, value, place, references), None), strict=True))


def _row_of(collection: str, object_id: ObjectId, place: str, references: References) -> UUID:
    found = references.uuid(collection, object_id)
    if found is None:
        raise Unmappable(place, f"{collection} {object_id} was not brought over yet")
    return found


# From columns to fields ------------------------------------------------------------------------------------------


def _gather(
    part: type[Nested],
    rows: Rows,
    columns: Mapping[str, Any],
    prefix: str,
    references: References,
    skip: tuple[str, ...] = (),
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, info in part.model_fields.items():
        if name in skip:
            continue
        column = prefix + (mark.name if (mark := _mark(info, Column)) else name)
        if inlined := _mark(info, Inlined):
            value: Any = (
                _gather(_nested_type(info.annotation), rows, columns, prefix + inlined.prefix, references) or None
            )
        elif child := _mark(info, Child):
            value = _gather_children(info, child, rows, references)
        elif triple := _mark(info, Polymorphic):
            value = _mixed_of(columns, triple, references)
        elif chosen := _mark(info, RefersBy):
            value = _document_of(chosen.collections[columns[chosen.discriminator]], columns[column], references)
        elif refers := _mark(info, Refers):
            value = (
                None if columns.get(column) is None else _document_of(refers.collection, columns[column], references)
            )
        else:
            stored = _mark(info, Stored)
            value = columns.get(column)
            value = value if value is None or stored is None else stored.to_field(value)
        if value is not None:
            made[_alias(name, info)] = value
    return made


def _gather_children(info: FieldInfo, child: Child, rows: Rows, references: References) -> Any:
    found = rows.children.get(child.table, [])
    if (ordinal := child.ordinal) is not None:
        found = sorted(found, key=lambda row: row[ordinal])
    if refers := _mark(info, Refers):
        made: list[Any] = [_document_of(refers.collection, row[_mark(info, Column).name], references) for row in found]
    else:
        nested = _nested_type(info.annotation)
        made = [_gather(nested, rows, row, "", references) for row in found]
    is_list = get_origin(info.annotation) is list
    return made if is_list else (made[0] if made else None)


def _mixed_of(columns: Mapping[str, Any], triple: Polymorphic, references: References) -> ObjectId | str | None:
    kind = columns.get(f"{triple.prefix}_ref_kind")
    if kind == "template":
        return columns[f"{triple.prefix}_external_ref"]
    row_id = columns.get(f"{triple.prefix}_id")
    return None if row_id is None else _document_of(triple.collection, row_id, references)


def _document_of(collection: str, row_id: UUID, references: References) -> ObjectId:
    found = references.object_id(collection, row_id)
    if found is None:
        raise Unmappable(collection, f"row {row_id} has no ObjectId")
    return found


def _plain(part: Nested, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        if name in skip or value is None:
            continue
        stored = _mark(info, Stored)
        if isinstance(value, Nested):
            value = _plain(value) or None
        elif isinstance(value, list) and stored is None:
            value = [_plain(item) if isinstance(item, Nested) else item for item in value]
        elif stored is not None:
            value = stored.to_field(stored.to_column(value))
        if value is not None:
            made[_alias(name, info)] = value
    return made


class Stamped(Document):
    """A document with mongoose's timestamps."""

    created_at: Time
    updated_at: Time
