"""New rows, by COPY: a document that has no row yet, its children, and its place in id_map."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from bson import ObjectId
from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from custody.mirror.backfill.specials import EXTRA, restore_stamps
from custody.mirror.backfill.targets import ChildOf, ColumnOf, Target
from custody.mirror.collections.document import Rows

Made = Sequence[tuple[UUID, Rows]]


def new_ids(object_ids: Sequence[ObjectId]) -> list[UUID]:
    """Random UUIDs (version 7) of the documents' own seconds: rows made together stay together in every index."""
    drawn = os.urandom(10 * len(object_ids))  # once: each call lets the reading thread take the interpreter
    return [_new_id(object_id, drawn[10 * n : 10 * n + 10]) for n, object_id in enumerate(object_ids)]


def _new_id(object_id: ObjectId, drawn: bytes) -> UUID:
    milliseconds = int.from_bytes(object_id.binary[:4]) * 1000
    bits = int.from_bytes(drawn)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | (bits >> 68) << 64 | 0b10 << 62 | bits & (1 << 62) - 1)


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    """psycopg's connection under SQLAlchemy's, in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def copy(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into a table. Raises psycopg.Error, whose context names the column."""
    statement = f"COPY {table} ({', '.join(quoted(column) for column in columns)}) FROM STDIN"
    with driver_of(connection).cursor() as cursor, cursor.copy(statement.encode()) as copying:
        for row in rows:
            copying.write_row(row)


def quoted(column: str) -> str:
    """A column's name in SQL."""
    return f'"{column}"'


def insert(connection: Connection, target: Target, made: Made) -> None:
    """Insert rows with their children."""
    if not made:
        return
    names, jsons = _names(target.columns)
    extra = EXTRA.get(target.collection, ())
    copy(
        connection,
        target.table,
        ("id", *names, *extra),
        (
            (row_id, *values(rows.columns, names, jsons), *(rows.columns.get(name) for name in extra))
            for row_id, rows in made
        ),
    )
    for child in target.children:
        insert_children(connection, child, child.table, made)
    restore_stamps(connection, target, list(made))


def insert_children(connection: Connection, child: ChildOf, table: str, made: Made) -> None:
    """COPY the children of these rows into ``table``: the child's own, or one of its shape."""
    names, jsons = _names(child.columns)
    found = [(row_id, columns) for row_id, rows in made for columns in rows.children.get(child.model, ())]
    if found:
        copy(
            connection,
            table,
            (child.parent, *names),
            ((row_id, *values(columns, names, jsons)) for row_id, columns in found),
        )


def record_ids(connection: Connection, collection: str, pairs: Sequence[tuple[str, UUID]]) -> None:
    """Record the UUID of each ObjectId in id_map, where it is not yet."""
    if pairs:
        copy(
            connection,
            "public.id_map",
            ("collection", "legacy_object_id", "new_id"),
            ((collection, object_id, row_id) for object_id, row_id in pairs),
        )


def values(columns: dict[str, Any], names: tuple[str, ...], jsons: tuple[bool, ...]) -> list[Any]:
    """A row's values in the order of ``names``, JSON marked as such."""
    return [
        Jsonb(value) if is_json and value is not None else value
        for value, is_json in zip(map(columns.get, names), jsons, strict=True)
    ]


@cache
def _names(columns: tuple[ColumnOf, ...]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    return tuple(column.name for column in columns), tuple(column.is_json for column in columns)
