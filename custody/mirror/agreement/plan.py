"""A collection's plan: from its mapping, the same canonical text of a document in Python and of its row in SQL.

Both sides name each field in the mapping's order, separated, so that equal texts are equal fields and nothing else.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from sqlalchemy import Boolean, DateTime, Enum, Integer, Numeric, String
from sqlalchemy.dialects.postgresql import JSONB

from custody.mirror.agreement import canonical
from custody.mirror.agreement.canonical import ABSENT, SEPARATOR, Encode, Encoder
from custody.mirror.agreement.compiling import Piece, compiled
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Document, Nested
from custody.mirror.collections.marks import Child, Column, Inlined, Owner, Polymorphic, Refers, RefersBy
from custody.mirror.collections.plan import alias_of, aliases_of, mark_of, marks_of, nested_type
from custody.mirror.collections.values import _object_id
from custody.store.models import Base

CONCAT_ARGUMENTS_MAXIMUM: Final = 90  # PostgreSQL's functions take 100

Readable = Callable[[str, str], bool]
"""Whether the session may read (table, column)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One compared field: its place in the document, who owns it, and the table that keeps it."""

    path: tuple[str, ...]
    owner: Owner
    table: type[Base]
    columns: tuple[str, ...]
    is_unordered: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(slots=True)
class Plan:
    """How one collection is compared. ``encode`` raises for a document that must be looked at whole."""

    document: type[Document]
    encode: Encode
    text: str
    """The canonical text of row ``t``, in SQL."""
    joins: str
    columns: tuple[str, ...]
    """Of the table, that ``text`` and ``joins`` read."""
    leaves: tuple[Leaf, ...]
    children: dict[type[Base], str]
    """The tables of compared children, and the column of each that names its parent."""
    left_out: tuple[str, ...]
    """Fields that this session may not read in Postgres; they are not compared, nor read from MongoDB."""
    columns_left_out: frozenset[tuple[str, str]]
    """(table, column) of what it may not read, as far as this plan asked."""

    @property
    def collection(self) -> str:
        return self.document.collection

    @property
    def table(self) -> str:
        return f"public.{self.document.table.__tablename__}"


@dataclass(slots=True)
class _Scope:
    """One table of the query: what is read of it, and what is joined to it."""

    alias: str
    table: type[Base]
    readable: Readable
    columns: dict[str, None] = field(default_factory=dict[str, None])
    joins: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def reads(self, *columns: str) -> bool:
        return all(self.readable(self.table.__tablename__, column) for column in columns)

    def column(self, name: str) -> str:
        self.columns[name] = None
        return f'{self.alias}."{name}"'

    def refers(self, name: str, collection: str) -> str:
        """The ObjectId of the row that column ``name`` holds the UUID of; ``?`` and the UUID where it has none."""
        column = self.column(name)
        table = COLLECTIONS[collection].table.__tablename__
        joined = f"{self.alias}_{len(self.joins)}"
        if (table, column) in self.joins:
            joined = self.joins[(table, column)].split(" ON ")[0].rpartition(" ")[2]
        else:
            self.joins[(table, column)] = f"LEFT JOIN public.{table} {joined} ON {joined}.id = {column}"
        # id_map is asked only for rows that were born in Postgres.
        return (
            f"coalesce({joined}.legacy_object_id, (SELECT m.legacy_object_id FROM public.id_map m "  # noqa: S608 - the mapping names them all
            f"WHERE m.new_id = {column} AND m.collection = '{collection}'), '?' || {column})"
        )

    def refers_readably(self, collection: str) -> bool:
        table = COLLECTIONS[collection].table.__tablename__
        return self.readable(table, "id") and self.readable(table, "legacy_object_id")


@dataclass(slots=True)
class _Walk:
    leaves: list[Leaf] = field(default_factory=list[Leaf])
    left_out: list[str] = field(default_factory=list[str])
    children: dict[type[Base], str] = field(default_factory=dict[type[Base], str])


def plan(document: type[Document], readable: Readable) -> Plan:
    """The plan of one collection, for a session that may read what ``readable`` says."""
    refused: set[tuple[str, str]] = set()

    def asked(table: str, column: str) -> bool:
        if not (may := readable(table, column)):
            refused.add((table, column))
        return may

    scope = _Scope("t", document.table, asked)
    scope.column("id")
    walk = _Walk()
    pieces, expressions = _part(document, scope, walk, "", (), Owner.MONGO, skip=("id",))
    return Plan(
        document=document,
        encode=compiled(pieces, _other_names(document) | {"id"}),
        text=concat(expressions),
        joins=" ".join(scope.joins.values()),
        columns=tuple(scope.columns),
        leaves=tuple(walk.leaves),
        children=walk.children,
        left_out=tuple(walk.left_out),
        columns_left_out=frozenset(refused),
    )


def concat(expressions: Iterable[str]) -> str:
    """``expressions`` with separators; concat() makes NULL the empty text."""
    arguments = [part for each in expressions for part in (each, f"'{SEPARATOR}'")][:-1]
    groups = [
        f"concat({', '.join(arguments[start : start + CONCAT_ARGUMENTS_MAXIMUM])})"
        for start in range(0, len(arguments), CONCAT_ARGUMENTS_MAXIMUM)
    ]
    return " || ".join(groups) or "''"


def _nested_of(info: FieldInfo) -> type[Nested]:
    found = nested_type(info.annotation)
    if found is None or not issubclass(found, Nested):
        raise TypeError(f"expected a nested document, got {info.annotation}")
    return found


def _other_names(part: type[Nested]) -> frozenset[str]:
    """The mapping reads a field by these as well; nobody writes them, and the encoders do not."""
    return frozenset(part.model_fields) - aliases_of(part)


def _part(
    part: type[Nested],
    scope: _Scope,
    walk: _Walk,
    prefix: str,
    path: tuple[str, ...],
    owner: Owner,
    skip: tuple[str, ...] = (),
) -> tuple[list[Piece], list[str]]:
    pieces: list[Piece] = []
    expressions: list[str] = []
    for name, info in part.model_fields.items():
        if name in skip:
            continue
        alias = alias_of(name, info)
        here = (*path, alias)
        mine: Owner = mark_of(info, Owner) or owner
        column = prefix + (mark.name if (mark := mark_of(info, Column)) else name)
        if inlined := mark_of(info, Inlined):
            nested = _nested_of(info)
            inner, more = _part(nested, scope, walk, prefix + inlined.prefix, here, mine)
            encode = compiled(inner, _other_names(nested))
            default = None if info.is_required() else encode({})
            pieces.append((alias, Encoder(encode), default))
            expressions += more
            continue
        made = _leaf(info, scope, walk, column, part)
        if made is None:
            walk.left_out.append(".".join(here))
            continue
        encoder, expression, leaf_columns, table = made
        pieces.append((alias, encoder, _default(info, encoder.encode)))
        expressions.append(expression)
        child = mark_of(info, Child)
        is_unordered = child is not None and child.ordinal is None and get_origin(info.annotation) is list
        walk.leaves.append(Leaf(here, mine, table, leaf_columns, is_unordered))
    return pieces, expressions


def _default(info: FieldInfo, encode: Encode) -> str | None:
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True)
    return ABSENT if value is None else encode(value)


_Made = tuple[Encoder, str, tuple[str, ...], type[Base]]


def _leaf(info: FieldInfo, scope: _Scope, walk: _Walk, column: str, part: type[Nested]) -> _Made | None:  # noqa: PLR0911 - one a kind of field
    """A field's encoder, its SQL, its columns and their table; None if the session may not read them."""
    if child := mark_of(info, Child):
        return _child(info, child, scope, walk)
    if triple := mark_of(info, Polymorphic):
        kind, row, external = (f"{triple.prefix}_{name}" for name in ("ref_kind", "id", "external_ref"))
        if not scope.reads(kind, row, external) or not scope.refers_readably(triple.collection):
            return None
        text = scope.column(external)
        sql = (
            f"CASE WHEN {scope.column(kind)} = 'template' THEN 't' || length({text}) || ':' || {text} "
            f"ELSE 'e' || {scope.refers(row, triple.collection)} END"
        )
        return canonical.mixed_id(_validator(info)), sql, (kind, row, external), scope.table
    if not scope.reads(column):
        return None
    if chosen := mark_of(info, RefersBy):
        by = next(name for name in part.model_fields if name == chosen.discriminator)
        if not all(map(scope.refers_readably, chosen.collections.values())):
            return None
        cases = " ".join(
            f"WHEN '{value}' THEN {scope.refers(column, collection)}"
            for value, collection in chosen.collections.items()
        )
        return canonical.object_id(_validator(info)), f"CASE {scope.column(by)} {cases} END", (column,), scope.table
    if refers := mark_of(info, Refers):
        if not scope.refers_readably(refers.collection):
            return None
        return canonical.object_id(_validator(info)), scope.refers(column, refers.collection), (column,), scope.table
    encoder, sql = _value(info, scope.table.__table__.c[column].type, scope.column(column))
    return encoder, sql, (column,), scope.table


def _child(info: FieldInfo, child: Child, scope: _Scope, walk: _Walk) -> _Made | None:
    inner = _Scope(f"c{len(walk.children)}", child.table, scope.readable)
    columns = tuple(column.name for column in child.table.__table__.c)
    if not inner.reads(*columns):
        return None
    is_list = get_origin(info.annotation) is list
    if refers := mark_of(info, Refers):
        if not inner.refers_readably(refers.collection):
            return None
        item = canonical.object_id(_object_id).encode
        expressions = [inner.refers(mark_of(info, Column).name, refers.collection)]
    else:
        nested = _nested_of(info)
        pieces, expressions = _part(nested, inner, _Walk(), "", (), Owner.MONGO)
        item = compiled(pieces, _other_names(nested))
    walk.children[child.table] = child.parent
    nothing = SEPARATOR * (len(expressions) - 1)
    order = 'x.piece COLLATE "C"' if child.ordinal is None else "x.ordinal"
    ordinal = "0" if child.ordinal is None else inner.column(child.ordinal)
    counted = "" if is_list else f" FILTER (WHERE x.piece <> '{nothing}')"
    sql = (
        f"(SELECT string_agg(length(x.piece) || ':' || x.piece, '' ORDER BY {order}){counted} FROM ("  # noqa: S608 - the mapping names them all
        f"SELECT {concat(expressions)} AS piece, {ordinal} AS ordinal FROM public.{child.table.__tablename__} {inner.alias} "
        f'{" ".join(inner.joins.values())} WHERE {inner.alias}."{child.parent}" = {scope.alias}.id) x)'
    )
    return _rows(item, nothing, is_list=is_list, is_ordered=child.ordinal is not None), sql, columns, child.table


def _rows(item: Encode, nothing: str, *, is_list: bool, is_ordered: bool) -> Encoder:
    def encode_list(value: Any) -> str:
        if type(value) is not list:
            raise ValueError("expected a list")
        pieces = list(map(item, value))
        return canonical.joined(pieces if is_ordered else sorted(pieces))

    def encode_one(value: Any) -> str:
        piece = item(value)
        return ABSENT if piece == nothing else canonical.prefixed(piece)

    return Encoder(encode_list if is_list else encode_one)


def _validator(info: FieldInfo) -> Callable[[Any], Any]:
    found = mark_of(info, BeforeValidator)
    return _refuse if found is None else found.func


def _refuse(value: Any) -> Any:
    raise ValueError(f"expected another type than {type(value).__name__}")


def _bound(info: FieldInfo, kind: type[Any], name: str) -> Any:
    found = next((mark for mark in marks_of(info) if isinstance(mark, kind)), None)
    return None if found is None else getattr(found, name)


def _literals(annotation: Any) -> frozenset[str]:
    if get_origin(annotation) is Literal:
        return frozenset(get_args(annotation))
    return frozenset[str]().union(*(_literals(part) for part in get_args(annotation) if not isinstance(part, str)))


def _value(info: FieldInfo, kind: Any, column: str) -> tuple[Encoder, str]:  # noqa: PLR0911 - one a type
    validate = _validator(info)
    as_text = f"length({column}) || ':' || {column}"
    if members := _literals(info.annotation):
        is_text = not isinstance(kind, Enum)
        return canonical.choice(members, is_text=is_text), as_text if is_text else column
    least = _bound(info, Ge, "ge")
    if isinstance(kind, Numeric) and kind.scale == 0:
        return canonical.uint256(validate), column
    if isinstance(kind, Numeric):
        above = _bound(info, Gt, "gt")
        assert least in (None, 0) and above in (None, 0) and kind.scale is not None  # noqa: PT018 - one shape
        encoder = canonical.money(validate, kind.scale, refuses_zero=above == 0, refuses_negative=0 in (least, above))
        return encoder, column
    if isinstance(kind, Boolean):
        return canonical.FLAG, column
    if isinstance(kind, Integer):
        return canonical.whole(validate, least, _bound(info, Le, "le")), column
    if isinstance(kind, DateTime):
        return canonical.moment(validate), f"floor(extract(epoch FROM {column}) * 1000)"
    if isinstance(kind, JSONB):
        # Some writers keep JSON's null where others keep SQL's.
        return Encoder(canonical.json_text), f"nullif({column}, 'null')"
    assert isinstance(kind, String), f"{column}: {kind}"
    pattern = next((found for mark in marks_of(info) if (found := getattr(mark, "pattern", None))), None)
    return canonical.text(validate, _bound(info, MaxLen, "max_length"), pattern), as_text


def plans(readable: Readable, collections: Mapping[str, type[Document]] = COLLECTIONS) -> dict[str, Plan]:
    """The plans of the collections whose table, id and ObjectIds the session may read."""
    return {
        name: plan(document, readable)
        for name, document in collections.items()
        if readable(document.table.__tablename__, "id") and readable(document.table.__tablename__, "legacy_object_id")
    }
