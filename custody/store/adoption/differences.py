"""How a living schema differs from state 0017: what, how bad, and the statement that would close it. Pure."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from custody.store.adoption.catalogue import Catalogue, Column, Constraint, Table


class Severity(IntEnum):
    """How much a difference matters."""

    NOTE = 0
    """The fleet never meets it."""
    WARNING = 1
    """The fleet works; it costs speed, or a person should look."""
    BLOCKING = 2
    """Money could be lost or refused: adoption waits until it is closed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``place`` is table, table.column or type; ``closes`` a statement, or empty where none would."""

    severity: Severity
    place: str
    what: str
    closes: str


LEDGER: Final = "funds_ledger_entries"
_STRING: Final = re.compile(r"^(?:text|character varying(?:\((\d+)\))?)$")
_WIDER: Final = {("integer", "bigint"), ("smallint", "integer"), ("smallint", "bigint")}
"""A column of the second type takes everything that one of the first does."""


def differences(expected: Catalogue, found: Catalogue, statements: str) -> list[Difference]:
    """Every difference of ``found`` from ``expected``, the worst first. ``statements``: the baseline's SQL."""
    every = [*_enums(expected, found), *_tables(expected, found, statements)]
    return sorted(every, key=lambda item: (-item.severity, item.place, item.what))


def renames(expected: Catalogue, found: Catalogue, tables: Collection[str]) -> list[str]:
    """Statements that give constraints and triggers of ``tables`` the names by which later revisions know them."""
    statements: list[str] = []
    for name in tables:
        wanted, there = expected.tables[name], found.tables[name]
        constraints = {(item.kind, _loose(item.definition)): item.name for item in there.constraints}
        for item in wanted.constraints:
            now = constraints[item.kind, _loose(item.definition)]
            if now != item.name:
                statements.append(f'ALTER TABLE public.{name} RENAME CONSTRAINT "{now}" TO "{item.name}"')
        triggers = {item.fires: item.name for item in there.triggers}
        for trigger in wanted.triggers:
            now = triggers[trigger.fires]
            if now != trigger.name:
                statements.append(f'ALTER TRIGGER "{now}" ON public.{name} RENAME TO "{trigger.name}"')
    return statements


def _enums(expected: Catalogue, found: Catalogue) -> Iterator[Difference]:
    for name, labels in expected.enums.items():
        there = found.enums.get(name)
        if there is None:
            quoted = ", ".join(f"'{label}'" for label in labels)
            closes = f"CREATE TYPE public.{name} AS ENUM ({quoted})"
            yield Difference(Severity.BLOCKING, name, "the type is missing", closes)
            continue
        for label in labels:
            if label not in there:
                closes = f"ALTER TYPE public.{name} ADD VALUE '{label}'"
                yield Difference(Severity.BLOCKING, name, f"the value '{label}' is missing", closes)
        for label in there:
            if label not in labels:
                what = f"the value '{label}' is not known to the fleet: rows that carry it are left alone"
                yield Difference(Severity.WARNING, name, what, "")


def _tables(expected: Catalogue, found: Catalogue, statements: str) -> Iterator[Difference]:
    for name, table in expected.tables.items():
        there = found.tables.get(name)
        if there is None:
            closes = _create_table(name, statements)
            yield Difference(Severity.BLOCKING, name, "the table is missing", closes)
            continue
        yield from _columns(name, table, there)
        yield from _constraints(name, table, there)
        yield from _indexes(name, table, there)
        yield from _triggers(name, table, there, statements)
    for name in found.tables:
        if name not in expected.tables:
            yield Difference(Severity.NOTE, name, "the table is not one of state 0017; the fleet leaves it alone", "")


def _create_table(name: str, statements: str) -> str:
    """The table's own part of the baseline: the table and its indexes."""
    parts = re.findall(
        rf"^CREATE (?:TABLE public\.{name} \(.*?^\)|(?:UNIQUE )?INDEX \w+\s+ON public\.{name} [^;]*);",
        statements,
        re.MULTILINE | re.DOTALL,
    )
    return "\n".join(parts)


def _columns(name: str, expected: Table, found: Table) -> Iterator[Difference]:
    for column, wanted in expected.columns.items():
        place = f"{name}.{column}"
        alter = f"ALTER TABLE public.{name} ALTER COLUMN {column}"
        there = found.columns.get(column)
        if there is None:
            yield Difference(Severity.BLOCKING, place, "the column is missing", _add_column(name, column, wanted))
            continue
        if there.type != wanted.type:
            what = f"its type is {there.type}; expected {wanted.type}"
            closes = f"{alter} TYPE {wanted.type} USING {column}::{wanted.type}"
            yield Difference(_type_severity(wanted.type, there.type), place, what, closes)
        if there.required and not wanted.required:
            what = "it is NOT NULL; expected that it may be missing"
            yield Difference(Severity.BLOCKING, place, what, f"{alter} DROP NOT NULL")
        elif wanted.required and not there.required:
            yield Difference(Severity.WARNING, place, "it may be NULL; expected NOT NULL", f"{alter} SET NOT NULL")
        if there.default != wanted.default:
            # Somebody else's default is harmless where there is one; without any our own INSERTs would be refused.
            severity = Severity.BLOCKING if wanted.required and there.default is None else Severity.NOTE
            what = f"its default is {there.default or 'none'}; expected {wanted.default or 'none'}"
            closes = f"{alter} SET DEFAULT {wanted.default}" if wanted.default else f"{alter} DROP DEFAULT"
            yield Difference(severity, place, what, closes)
    for column, there in found.columns.items():
        if column in expected.columns:
            continue
        if there.required and there.default is None:
            what = "the fleet does not know this column, and it is NOT NULL without a default: inserts would be refused"
            closes = f"ALTER TABLE public.{name} ALTER COLUMN {column} DROP NOT NULL"
            yield Difference(Severity.BLOCKING, f"{name}.{column}", what, closes)
        else:
            yield Difference(Severity.NOTE, f"{name}.{column}", "the fleet does not know this column", "")


def _add_column(table: str, column: str, wanted: Column) -> str:
    default = f" DEFAULT {wanted.default}" if wanted.default else ""
    if wanted.required and not wanted.default:
        return (
            f"ALTER TABLE public.{table} ADD COLUMN {column} {wanted.type}; -- then fill it, and\n"
            f"ALTER TABLE public.{table} ALTER COLUMN {column} SET NOT NULL"
        )
    required = " NOT NULL" if wanted.required else ""
    return f"ALTER TABLE public.{table} ADD COLUMN {column} {wanted.type}{default}{required}"


def _type_severity(wanted: str, there: str) -> Severity:
    ours, theirs = _STRING.match(wanted), _STRING.match(there)
    if ours and theirs:
        is_wider = theirs[1] is None or (ours[1] is not None and int(theirs[1]) >= int(ours[1]))
        return Severity.NOTE if is_wider else Severity.WARNING
    return Severity.NOTE if (wanted, there) in _WIDER else Severity.BLOCKING


def _constraints(name: str, expected: Table, found: Table) -> Iterator[Difference]:
    there = {(item.kind, _loose(item.definition)): item for item in found.constraints}
    names = {item.name for item in found.constraints}
    for wanted in expected.constraints:
        same = there.pop((wanted.kind, _loose(wanted.definition)), None)
        if same is None:
            what = f"missing: {wanted.definition}"
            yield Difference(Severity.BLOCKING, name, what, _add_constraint(name, wanted, names))
        elif wanted.is_valid and not same.is_valid:
            closes = f"ALTER TABLE public.{name} VALIDATE CONSTRAINT {same.name}"
            yield Difference(Severity.WARNING, name, f"{same.name} is NOT VALID: older rows were not looked at", closes)
    for extra in there.values():
        kind = {"c": "CHECK", "f": "reference", "p": "primary key"}[extra.kind]
        what = f"the fleet does not know the {kind} {extra.name}: {extra.definition}; it may refuse the fleet's rows"
        closes = f"ALTER TABLE public.{name} DROP CONSTRAINT {extra.name}"
        yield Difference(Severity.WARNING, name, what, closes)


def _add_constraint(table: str, wanted: Constraint, names: set[str]) -> str:
    name = f"{wanted.name}_0017" if wanted.name in names else wanted.name
    if wanted.kind == "p":
        return f"ALTER TABLE public.{table} ADD CONSTRAINT {name} {wanted.definition}"
    # NOT VALID first: it locks out nobody while older rows are read.
    return (
        f"ALTER TABLE public.{table} ADD CONSTRAINT {name} {wanted.definition} NOT VALID;\n"
        f"ALTER TABLE public.{table} VALIDATE CONSTRAINT {name}"
    )


def _loose(definition: str) -> str:
    """A definition without what says nothing: spaces, and the casts and brackets that PostgreSQL adds by itself."""
    return re.sub(r"[\s()]|::(?:text|numeric|bpchar|character varying)(?:\[\])?", "", definition).lower()


def _indexes(name: str, expected: Table, found: Table) -> Iterator[Difference]:
    there = {(item.is_unique, _loose(item.definition)) for item in found.indexes}
    for wanted in expected.indexes:
        key = _loose(wanted.definition)
        if (wanted.is_unique, key) in there or (not wanted.is_unique and (True, key) in there):
            continue
        unique = "UNIQUE " if wanted.is_unique else ""
        closes = f"CREATE {unique}INDEX CONCURRENTLY {wanted.name} ON public.{name} USING {wanted.definition}"
        # Without a unique index two rows may stand for one thing; without another one the fleet is only slower.
        severity = Severity.BLOCKING if wanted.is_unique else Severity.WARNING
        yield Difference(severity, name, f"missing: {unique.lower()}index on {wanted.definition}", closes)
    known = {_loose(item.definition) for item in expected.indexes}
    for extra in found.indexes:
        if extra.is_unique and _loose(extra.definition) not in known:
            what = f"the fleet does not know the unique index {extra.name}: {extra.definition}; it may refuse its rows"
            yield Difference(Severity.WARNING, name, what, f"DROP INDEX CONCURRENTLY public.{extra.name}")


def _triggers(name: str, expected: Table, found: Table, statements: str) -> Iterator[Difference]:
    fires = {item.fires: item for item in found.triggers}
    for wanted in expected.triggers:
        there = fires.pop(wanted.fires, None)
        if there is None:
            yield Difference(
                Severity.BLOCKING, name, f"missing: a trigger {wanted.fires}", _create_trigger(wanted.name, statements)
            )
        elif not there.is_on:
            closes = f"ALTER TABLE public.{name} ENABLE ALWAYS TRIGGER {there.name}"
            yield Difference(Severity.BLOCKING, name, f"the trigger {there.name} is disabled", closes)
    for extra in fires.values():
        what = (
            f"the fleet does not know the trigger {extra.name} ({extra.fires}): read what it does to the fleet's rows"
        )
        yield Difference(Severity.WARNING, name, what, f"DROP TRIGGER {extra.name} ON public.{name}")


def _create_trigger(name: str, statements: str) -> str:
    function = re.search(r"^CREATE FUNCTION public\.refuse_ledger_change.*?\$\$;", statements, re.MULTILINE | re.DOTALL)
    trigger = re.search(rf"^CREATE TRIGGER {name} .*?;", statements, re.MULTILINE | re.DOTALL)
    assert function is not None
    assert trigger is not None
    return f"{function[0].replace('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION')}\n{trigger[0]}"
