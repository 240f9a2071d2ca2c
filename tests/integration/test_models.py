"""The marketplace's models say what the database holds: tables, columns, types, defaults, keys and references."""

import re
from collections import defaultdict
from typing import Any

import pytest
from sqlalchemy import Connection, Enum, text
from sqlalchemy.dialects import postgresql

from custody.store import models
from tests.conftest import Database

_FLEETS_OWN = {"fleet_schema_version"}  # the revision's table
_COLUMNS = text(
    """
    SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
           a.attnotnull AS required, pg_get_expr(d.adbin, d.adrelid) AS default
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    """
)
_KEYS = text(
    """
    SELECT k.conrelid::regclass::text AS table, pg_get_constraintdef(k.oid) AS definition
    FROM pg_constraint k WHERE k.connamespace = 'public'::regnamespace AND k.contype IN ('p', 'f')
    """
)
_DIALECT = postgresql.dialect()  # pyright: ignore[reportUnknownVariableType]


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Any:
    with module_database.engine().connect() as opened:
        yield opened


def _spelled(sql_type: str) -> str:
    """A type as format_type() spells it."""
    spelled = sql_type.lower().removeprefix("public.").replace(", ", ",")
    return re.sub(r"^varchar", "character varying", spelled)


def test_every_column_is_as_the_database_has_it(connection: Connection) -> None:
    found: dict[str, dict[str, tuple[str, bool, str | None]]] = defaultdict(dict)
    for row in connection.execute(_COLUMNS):
        if row.table not in _FLEETS_OWN:
            default = None if row.default is None else re.sub(r"::[\w. ]+$", "", row.default)
            found[row.table][row.column] = (row.type, row.required, default)
    declared = {
        table.name: {
            column.name: (
                _spelled(column.type.compile(_DIALECT)),
                not column.nullable,
                None if column.server_default is None else str(getattr(column.server_default, "arg")),  # noqa: B009
            )
            for column in table.columns
        }
        for table in models.Base.metadata.tables.values()
    }
    assert declared == found


def test_every_key_and_reference_is_as_the_database_has_it(connection: Connection) -> None:
    found = {
        (row.table, row.definition.removesuffix(" NOT VALID").replace("REFERENCES ", "REFERENCES public."))
        for row in connection.execute(_KEYS)
        if row.table not in _FLEETS_OWN and " fleet." not in row.definition
    }
    declared = set[tuple[str, str]]()
    for table in models.Base.metadata.tables.values():
        declared.add((table.name, f"PRIMARY KEY ({', '.join(column.name for column in table.primary_key)})"))
        for key in table.foreign_keys:
            action = f" ON DELETE {key.ondelete}" if key.ondelete else ""
            definition = f"FOREIGN KEY ({key.parent.name}) REFERENCES {key.column.table}({key.column.name}){action}"
            declared.add((table.name, definition))
    assert declared == found


def test_every_enum_is_as_the_database_has_it(connection: Connection) -> None:
    rows = connection.execute(
        text(
            """
            SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
            FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid
            WHERE t.typnamespace = 'public'::regnamespace GROUP BY 1
            """
        )
    )
    declared = {
        kind.name: list(kind.enums) for kind in models.Base.type_annotation_map.values() if isinstance(kind, Enum)
    }
    assert declared == {row.name: row.labels for row in rows}
