"""What Postgres has against one document, in the words of its fields."""

import re
from typing import Final

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.mirror.backfill.targets import Target
from custody.store.engine import sqlstate

_DOCUMENTS: Final = ("22", "23", "54", "P0", "FL")
"""Classes of SQLSTATE that a row's content causes: data, constraints, an index entry too long, what triggers refuse. Any
other is the server's or the connection's, and no document's."""

_CONSTRAINT: Final = text(
    """
    SELECT coalesce(
        (SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c
         WHERE c.conname = :name AND c.connamespace IN ('public'::regnamespace, 'fleet'::regnamespace) LIMIT 1),
        (SELECT 'a value that no other row has: ' || regexp_replace(i.indexdef, '^.* USING btree ', '')
         FROM pg_indexes i WHERE i.indexname = :name AND i.schemaname = 'public' LIMIT 1))
    """
)


def is_documents_fault(error: DBAPIError | psycopg.Error) -> bool:
    """Whether the row's content caused it, so that the same document fails again, alone."""
    return (sqlstate(error) or "")[:2] in _DOCUMENTS


def was_taken_meanwhile(error: DBAPIError | psycopg.Error) -> bool:
    """Whether somebody else brought the same document over since it was looked up."""
    original = error.orig if isinstance(error, DBAPIError) else error
    name = original.diag.constraint_name if isinstance(original, psycopg.Error) else None
    return name is not None and (name.endswith("_legacy_object_id_unique") or name.startswith("id_map_"))


def reason_of(connection: Connection, target: Target, error: DBAPIError | psycopg.Error) -> str:
    """The field and what was expected of it. No value is repeated: rows hold credentials, and others read this."""
    original = error.orig if isinstance(error, DBAPIError) else error
    assert isinstance(original, psycopg.Error)
    diag = original.diag
    field = _field(target, diag)
    if diag.constraint_name:
        expected = connection.execute(_CONSTRAINT, {"name": diag.constraint_name}).scalar()
        return f"{field}: expected {expected or diag.constraint_name} ({diag.constraint_name})"
    # Between quotes stands the value; the sentence is clear without it.
    said = re.sub(r'"[^"]*"', "the value", (diag.message_primary or "the database refused it").splitlines()[0])
    return f"{field}: expected what its column takes; {said}"


def _field(target: Target, diag: psycopg.errors.Diagnostic) -> str:
    if diag.column_name and (field := target.field_of(diag.column_name)):
        return field
    if (found := re.search(r"\bcolumn (\w+)", diag.context or "")) and (field := target.field_of(found[1])):
        return field
    if key := re.search(r"^Key \((.*?)\)=", diag.message_detail or ""):
        named = [field for word in re.findall(r"\w+", key[1]) if (field := target.field_of(word))]
        if named:
            return named[-1]
    # A CHECK of one column is named after it.
    columns = sorted((column.name for column in target.columns), key=len, reverse=True)
    for column in columns:
        if (diag.constraint_name or "").endswith(f"_{column}") and (field := target.field_of(column)):
            return field
    return next(
        (column.field for column in target.columns if f"_{column.name}" in (diag.constraint_name or "")), "document"
    )
