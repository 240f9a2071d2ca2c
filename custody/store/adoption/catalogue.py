"""What a schema is made of, as PostgreSQL itself spells it; and the marketplace's state 0017 to compare with.

The expected schema is not described a second time: the baseline is built in a schema of its own, by the same server in
the same transaction, read, and rolled back. So both sides are spelled by the same code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.store.migrations.versions.r0001_seed_state_0017 import BASELINE
from custody.store.sql_files import read_sql

EXPECTED_SCHEMA: Final = "fleet_expected"
_BASELINE_PACKAGE: Final = "custody.store.migrations.sql.baseline"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type as format_type() spells it, whether it is NOT NULL, its default's expression."""

    type: str
    required: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """One CHECK, foreign or primary key: its definition without NOT VALID, and whether every row was looked at."""

    name: str
    kind: str
    definition: str
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Index:
    """One index: ``definition`` from its method on (columns, predicate), the same for a UNIQUE constraint's own."""

    name: str
    is_unique: bool
    definition: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger: when it fires, without its name and its function's; ``is_on`` is false for a disabled one."""

    name: str
    fires: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table. ``columns`` by name, in the table's order."""

    owner: str
    columns: Mapping[str, Column]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    triggers: tuple[Trigger, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One schema: its tables by name, and each enum's labels in their order."""

    tables: Mapping[str, Table]
    enums: Mapping[str, tuple[str, ...]]


_COLUMNS = text(
    """
    SELECT c.relname AS table, pg_get_userbyid(c.relowner) AS owner, a.attname AS name,
           format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
           CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated <> '' THEN 'generated'
                ELSE pg_get_expr(d.adbin, d.adrelid) END AS default
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
    ORDER BY c.relname, a.attnum
    """
)
_CONSTRAINTS = text(
    """
    SELECT c.relname AS table, k.conname AS name, k.contype::text AS kind, pg_get_constraintdef(k.oid) AS definition,
           k.convalidated AS is_valid
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = to_regnamespace(:schema) AND k.contype IN ('c', 'f', 'p')
    ORDER BY c.relname, k.conname
    """
)
_INDEXES = text(
    """
    SELECT c.relname AS table, i.relname AS name, x.indisunique AS is_unique, pg_get_indexdef(x.indexrelid) AS definition
    FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE c.relnamespace = to_regnamespace(:schema) AND x.indisvalid AND NOT x.indisprimary
    ORDER BY c.relname, i.relname
    """
)
_TRIGGERS = text(
    """
    SELECT c.relname AS table, t.tgname AS name, t.tgenabled <> 'D' AS is_on, pg_get_triggerdef(t.oid) AS definition
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = to_regnamespace(:schema) AND NOT t.tgisinternal
    ORDER BY c.relname, t.tgname
    """
)
_ENUMS = text(
    """
    SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
    FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid
    WHERE t.typnamespace = to_regnamespace(:schema) GROUP BY t.typname
    """
)


def read_catalogue(connection: Connection, schema: str = "public") -> Catalogue:
    """The catalogue of ``schema``; every name in it is spelled as if it stood in ``public``."""
    before = connection.execute(text("SELECT current_setting('search_path')")).scalar_one()
    # With nothing on the path every definition names its schema.
    connection.execute(text("SET LOCAL search_path TO pg_catalog"))
    try:
        return _read(connection, schema)
    finally:
        connection.execute(text("SELECT set_config('search_path', :before, true)"), {"before": before})


def _read(connection: Connection, schema: str) -> Catalogue:

    def ask(statement: Any) -> list[Any]:
        return list(connection.execute(statement, {"schema": schema}))

    def spelled(definition: str) -> str:
        return definition.replace(f"{schema}.", "public.")

    columns: dict[str, dict[str, Column]] = {}
    owners: dict[str, str] = {}
    for row in ask(_COLUMNS):
        owners[row.table] = row.owner
        default = None if row.default is None else spelled(row.default)
        columns.setdefault(row.table, {})[row.name] = Column(spelled(row.type), row.required, default)
    constraints: dict[str, list[Constraint]] = {}
    for row in ask(_CONSTRAINTS):
        definition = spelled(row.definition).removesuffix(" NOT VALID")
        constraints.setdefault(row.table, []).append(Constraint(row.name, row.kind, definition, row.is_valid))
    indexes: dict[str, list[Index]] = {}
    for row in ask(_INDEXES):
        definition = spelled(row.definition).partition(" USING ")[2]
        indexes.setdefault(row.table, []).append(Index(row.name, row.is_unique, definition))
    triggers: dict[str, list[Trigger]] = {}
    for row in ask(_TRIGGERS):
        fires = re.sub(r"^CREATE (CONSTRAINT )?TRIGGER \S+ ", "", spelled(row.definition))
        fires = re.sub(r" EXECUTE FUNCTION .*$", "", fires)
        triggers.setdefault(row.table, []).append(Trigger(row.name, fires, row.is_on))
    return Catalogue(
        tables={
            name: Table(
                owners[name],
                found,
                tuple(constraints.get(name, ())),
                tuple(indexes.get(name, ())),
                tuple(triggers.get(name, ())),
            )
            for name, found in columns.items()
        },
        enums={row.name: tuple(row.labels) for row in ask(_ENUMS)},
    )


def baseline_statements(schema: str = "public") -> str:
    """The SQL of state 0017, its names in ``schema``."""
    whole = "\n".join(read_sql(_BASELINE_PACKAGE, f"{domain}.sql") for domain in BASELINE)
    return whole.replace("public.", f"{schema}.")


def expected_catalogue(connection: Connection) -> Catalogue:
    """The catalogue of state 0017, built in a schema of its own and rolled back. Needs CREATE on the database."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(text(f"CREATE SCHEMA {EXPECTED_SCHEMA}"))
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(baseline_statements(EXPECTED_SCHEMA))
        return read_catalogue(connection, EXPECTED_SCHEMA)
    finally:
        savepoint.rollback()
