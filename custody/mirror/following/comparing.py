"""Which documents say exactly what their rows say, column by column: nearly all, and the others are looked at whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from custody.mirror.agreement.looking import same
from custody.mirror.backfill.inserting import quoted
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.targets import Target, target_of
from custody.mirror.collections.document import Unmappable, to_rows
from custody.mirror.collections.marks import Owner
from custody.mirror.following.changes import Change
from custody.mirror.following.positions import Again


@dataclass(slots=True)
class Compared:
    """``equal``: nothing is to be brought over; ``older``: the mirror has still to write what of the fleet's differs; ``odd``:
    something of the fleet's may be another."""

    equal: set[str] = field(default_factory=set[str])
    older: list[Again] = field(default_factory=list[Again])
    odd: list[Change] = field(default_factory=list[Change])


def compare(
    connection: Connection, collection: str, changes: Sequence[Change], rows: Mapping[str, UUID], resolver: Resolver
) -> Compared:
    """Compare documents that have a row, by ``rows``, with it. What they refer to is known to the resolver."""
    target = target_of(collection)
    compared = Compared()
    if any(child.owner is not Owner.MONGO for child in target.children):
        compared.odd = list(changes)  # lists of the fleet's have no order that two stores share
        return compared
    own = [each for each in target.columns if each.name != "legacy_object_id"]
    never = [each.name for each in own if each.owner is Owner.CREATE_ONLY]
    fleets = [each.name for each in own if each.owner is Owner.FLEET]
    others = [each.name for each in own if each.owner is Owner.MONGO]
    found = connection.execute(_load(target), {"ids": list(rows.values()), "collection": collection})
    there = {row.id: row._mapping for row in found}
    for change in changes:
        row = there.get(rows[change.key])
        made = None if row is None else _made(change, resolver)
        if row is None or made is None or not all(_is_same(made.get(name), row[name]) for name in never):
            compared.odd.append(change)
        elif not all(_is_same(made.get(name), row[name]) for name in fleets):
            if row["is_asked"]:
                compared.older.append(Again(change.key, "behind", change.written_at, row.get("updated_at")))
            else:
                compared.odd.append(change)
        elif not target.children and all(_is_followed(name, made.get(name), row[name]) for name in others):
            compared.equal.add(change.key)
    return compared


def _made(change: Change, resolver: Resolver) -> dict[str, Any] | None:
    """The document's columns; None where it cannot be read, or refers to what has no row."""
    if change.document is None:
        return None
    try:
        return to_rows(change.document, resolver).columns
    except Unmappable:
        return None


def _is_same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, datetime) and isinstance(theirs, datetime):
        return theirs == _milliseconds(ours)
    return same(theirs, ours)


def _is_followed(name: str, theirs: Any, ours: Any) -> bool:
    # A row's time goes forward only.
    if name == "updated_at" and isinstance(theirs, datetime) and isinstance(ours, datetime):
        return theirs <= ours
    return _is_same(theirs, ours)


def _milliseconds(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


@cache
def _load(target: Target) -> TextClause:
    names = ", ".join(f"t.{quoted(each.name)}" for each in target.columns)
    return text(
        f"""
        SELECT t.id, {names}, t.id IN (SELECT o.document_id FROM fleet.outbox o
            WHERE o.queue = 'mirror' AND o.collection = :collection) AS is_asked
        FROM {target.table} t WHERE t.id = ANY(CAST(:ids AS uuid[]))
        """  # noqa: S608 - the mapping's names
    )
