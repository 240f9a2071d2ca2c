"""Rows that are there already: what MongoDB owns follows it, everything else stays (R7)."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from custody.mirror.backfill.inserting import Made, copy, insert_children, quoted, values
from custody.mirror.backfill.targets import ChildOf, Target
from custody.mirror.collections.marks import Owner

VALUE_LENGTH_MAXIMUM: Final = 100  # of what a gap repeats of a field that only the fleet changes: an amount, an id


@dataclass(slots=True)
class Changes:
    """The rows that were changed, those that were left, and those whose document differs in what nobody changes: row to reason."""

    updated: set[UUID] = field(default_factory=set[UUID])
    left: set[UUID] = field(default_factory=set[UUID])
    money: dict[UUID, str] = field(default_factory=dict[UUID, str])


def update(connection: Connection, target: Target, made: Made, read_at: datetime, *, is_cut_over: bool) -> Changes:
    """Bring these rows' MongoDB-owned columns and children up to date, where they differ.

    Left as they are: all rows of a domain that Postgres alone decides (``is_cut_over``, docs/mirror.md), rows that Postgres
    changed after ``read_at``, and those that the mirror has still to write, because what MongoDB says of them is older.
    """
    changes = Changes()
    children = [child for child in target.children if child.owner is Owner.MONGO]
    if not made or not (target.updatable or target.create_only or children):
        return changes
    names = tuple(dict.fromkeys((*target.updatable, *target.create_only)))
    stage = _stage(connection, target.table, ("id", *names))
    is_json = {column.name: column.is_json for column in target.columns}
    jsons = tuple(is_json[name] for name in names)
    copy(connection, stage, ("id", *names), ((row_id, *values(rows.columns, names, jsons)) for row_id, rows in made))
    if target.yields:
        changes.left = set(connection.execute(_left(target), {"read_at": read_at}).scalars())
    left = changes.left
    if target.create_only:
        for row in connection.execute(_differing(target)):
            also = "" if len(row.changed) == 1 else f" (and {', '.join(row.changed[1:])})"
            changes.money[row.id] = (
                f"{target.field_of(row.changed[0])}: expected {_short(row.kept)}, which nobody changes (R7), "
                f"got {_short(row.found)}{also}"
            )
    if is_cut_over:
        return changes
    if target.updatable:
        changes.updated |= set(connection.execute(_update(target), {"left": sorted(left)}).scalars())
    free = [(row_id, rows) for row_id, rows in made if row_id not in left]
    for child in children:
        changes.updated |= _replace_children(connection, child, free)
    return changes


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:VALUE_LENGTH_MAXIMUM]


def _stage(connection: Connection, table: str, columns: tuple[str, ...]) -> str:
    """An empty temporary table of these columns, made once a session."""
    name = f"pg_temp.backfill_{table.removeprefix('public.')}"
    connection.execute(
        text(
            f"CREATE TEMP TABLE IF NOT EXISTS {name.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS AS "  # noqa: S608
            f"SELECT {', '.join(map(quoted, columns))} FROM {table} WITH NO DATA"
        )
    )
    connection.execute(text(f"DELETE FROM {name}"))  # noqa: S608 - a savepoint before may have left rows
    return name


def _tuple(alias: str, columns: tuple[str, ...]) -> str:
    return f"({', '.join(f'{alias}.{quoted(column)}' for column in columns)})"


def _stage_of(target: Target) -> str:
    return f"pg_temp.backfill_{target.table.removeprefix('public.')}"


@cache
def _left(target: Target) -> TextClause:
    has_stamp = any(column.name == "updated_at" for column in target.columns)
    changed = "(t.updated_at >= :read_at AND t.updated_at <= clock_timestamp())" if has_stamp else ":read_at IS NULL"
    return text(
        f"""
        SELECT t.id FROM {_stage_of(target)} s JOIN {target.table} t ON t.id = s.id
        WHERE {changed} OR EXISTS (SELECT FROM fleet.outbox o WHERE o.queue = 'mirror'
            AND o.collection = '{target.collection}' AND o.document_id = t.id)
        """  # noqa: S608 - the names are the mapping's
    )


@cache
def _differing(target: Target) -> TextClause:
    changed = ", ".join(
        f"CASE WHEN t.{quoted(name)} IS DISTINCT FROM s.{quoted(name)} THEN '{name}' END" for name in target.create_only
    )
    return text(
        f"""
        SELECT d.id, d.changed, to_jsonb(d.t) ->> d.changed[1] AS kept, to_jsonb(d.s) ->> d.changed[1] AS found
        FROM (SELECT s.id, t, s, array_remove(ARRAY[{changed}], NULL) AS changed
              FROM {_stage_of(target)} s JOIN {target.table} t ON t.id = s.id
              WHERE {_tuple("t", target.create_only)} IS DISTINCT FROM {_tuple("s", target.create_only)}) d
        """  # noqa: S608 - the names are the mapping's
    )


@cache
def _update(target: Target) -> TextClause:
    facts = tuple(name for name in target.updatable if name != "updated_at")
    changes = [f"{quoted(name)} = s.{quoted(name)}" for name in facts]
    differs = f"{_tuple('t', facts)} IS DISTINCT FROM {_tuple('s', facts)}"
    if target.unread:
        differs = "true"
    if "updated_at" in target.updatable:
        # The fleet's own changes of a row are as much a change of it: time goes forward.
        changes.append("updated_at = greatest(t.updated_at, s.updated_at)")
        differs = f"({differs} OR s.updated_at > t.updated_at)"
    return text(
        f"""
        UPDATE {target.table} t SET {", ".join(changes)} FROM {_stage_of(target)} s
        WHERE t.id = s.id AND {differs} AND NOT t.id = ANY(CAST(:left AS uuid[])) RETURNING t.id
        """  # noqa: S608 - the names are the mapping's
    )


def _replace_children(connection: Connection, child: ChildOf, made: Made) -> set[UUID]:
    """Replace the children of those rows whose children differ. Returns these rows."""
    ids = [row_id for row_id, _ in made]
    if child.is_unread:
        _put_children(connection, child, made, ids)
        return set()
    columns = (child.parent, *(column.name for column in child.columns))
    stage = _stage(connection, child.table, columns)
    insert_children(connection, child, stage, made)
    listed = ", ".join(map(quoted, columns))
    theirs = f"SELECT {listed} FROM {child.table} WHERE {quoted(child.parent)} = ANY(CAST(:ids AS uuid[]))"  # noqa: S608
    mine = f"SELECT {listed} FROM {stage}"  # noqa: S608
    differing = set(
        connection.execute(
            text(
                f"SELECT DISTINCT d.{quoted(child.parent)} FROM ((({mine}) EXCEPT ALL ({theirs})) "  # noqa: S608
                f"UNION ALL (({theirs}) EXCEPT ALL ({mine}))) d"
            ),
            {"ids": ids},
        ).scalars()
    )
    if differing:
        _put_children(connection, child, [each for each in made if each[0] in differing], sorted(differing))
    return differing


def _put_children(connection: Connection, child: ChildOf, made: Made, ids: list[UUID]) -> None:
    connection.execute(
        text(f"DELETE FROM {child.table} WHERE {quoted(child.parent)} = ANY(CAST(:ids AS uuid[]))"),  # noqa: S608
        {"ids": ids},
    )
    insert_children(connection, child, child.table, made)
