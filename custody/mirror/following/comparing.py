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


@dataclass(slots=True)
class Compared:
    """``equal``: nothing is to be brought over; ``odd``: something of the fleet's may be another."""

    equal: set[str] = field(default_factory=set[str])
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
    guarded = [
        each.name for each in target.columns if each.owner is not Owner.MONGO and each.name != "legacy_object_id"
    ]
    others = [each.name for each in target.columns if each.owner is Owner.MONGO]
    there = {row.id: row._mapping for row in connection.execute(_load(target), {"ids": list(rows.values())})}
    for change in changes:
        row = there.get(rows[change.key])
        if row is None or change.document is None:
            compared.odd.append(change)
            continue
        try:
            made = to_rows(change.document, resolver).columns
        except Unmappable:
            compared.odd.append(change)
            continue
        if not all(_is_same(made.get(name), row[name]) for name in guarded):
            compared.odd.append(change)
        elif not target.children and all(_is_followed(name, made.get(name), row[name]) for name in others):
            compared.equal.add(change.key)
    return compared


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
    names = ", ".join(quoted(each.name) for each in target.columns)
    return text(f"SELECT id, {names} FROM {target.table} WHERE id = ANY(CAST(:ids AS uuid[]))")  # noqa: S608 - the mapping's names
