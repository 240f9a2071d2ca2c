"""A batch of documents into its collection's tables; one that Postgres refuses is found by halving, and stands alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from bson import ObjectId
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from custody.cutovers import is_cut_over
from custody.mirror import gaps
from custody.mirror.backfill import existing, inserting
from custody.mirror.backfill.faults import is_documents_fault, reason_of, was_taken_meanwhile
from custody.mirror.backfill.reading import Item
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.references import Rows as Found
from custody.mirror.backfill.specials import LEDGER, MoneyChanged, complete, is_ledger_closed, refuse_entry
from custody.mirror.backfill.targets import Target
from custody.mirror.collections.document import Document, NotBroughtOver, Rows, Unmappable, references_of, to_rows

OP: Final = "backfill"
_TRIES: Final = 2  # the second finds the row that another writer made meanwhile


@dataclass(slots=True)
class Outcome:
    """What became of a batch's documents. ``waiting``: brought over but for a reference to a row that is not there yet.
    ``left``: those of ``done`` and ``waiting`` whose row was changed meanwhile, so that it stays as it is.
    """

    inserted: int = 0
    updated: int = 0
    done: list[str] = field(default_factory=list[str])
    waiting: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])
    refused: list[gaps.Report] = field(default_factory=list[gaps.Report])

    def add(self, other: "Outcome") -> None:
        self.inserted += other.inserted
        self.updated += other.updated
        self.done += other.done
        self.waiting += other.waiting
        self.left += other.left
        self.refused += other.refused

    def refuse(self, item: Item, severity: gaps.Severity, reason: str) -> None:
        self.refused.append(gaps.Report(item.key, severity, reason, gaps.payload_of(item.decoded(), len(item.raw))))


@dataclass(slots=True)
class _Made:
    """A document as rows, under the id that its row has or will have."""

    item: Item
    document: Document
    row_id: UUID
    rows: Rows
    waits: bool = False


def apply(
    connection: Connection,
    target: Target,
    items: Sequence[Item],
    resolver: Resolver,
    read_at: datetime,
    *,
    op: str = OP,
    closes: bool = True,
) -> Outcome:
    """Bring documents over in the caller's transaction, and report or close their gaps of ``op`` (``closes``: there are some).

    ``read_at``: Postgres' time before MongoDB was read; rows changed since then are left as they are.
    """
    outcome = Outcome()
    readable: list[Item] = []
    for item in items:
        if item.refusal is None:
            readable.append(item)
        else:
            outcome.refuse(item, "error", item.refusal)
    outcome.add(_halving(connection, target, readable, resolver, read_at))
    later = [f"{each.field}: " for each in target.deferred]  # the second pass reports and closes those
    refused = {each.object_id for each in outcome.refused}
    done = [key for key in outcome.done if key not in refused]
    waiting = [key for key in outcome.waiting if key not in refused]
    told = outcome.refused if op != OP else gaps.not_left_as_it_is(connection, op, target.collection, outcome.refused)
    gaps.report(connection, op, target.collection, told, but=later)
    if closes:
        gaps.close(connection, op, target.collection, done)
        gaps.close(connection, op, target.collection, waiting, but=later)
    return outcome


def _halving(
    connection: Connection, target: Target, items: Sequence[Item], resolver: Resolver, read_at: datetime, tried: int = 1
) -> Outcome:
    if not items:
        return Outcome()
    try:
        with connection.begin_nested():
            return _together(connection, target, items, resolver, read_at)
    except (DBAPIError, psycopg.Error) as error:
        if not is_documents_fault(error):
            raise
        resolver.forget()
        if len(items) > 1:
            middle = len(items) // 2
            outcome = _halving(connection, target, items[:middle], resolver, read_at)
            outcome.add(_halving(connection, target, items[middle:], resolver, read_at))
            return outcome
        if was_taken_meanwhile(error) and tried < _TRIES:
            return _halving(connection, target, items, resolver, read_at, tried + 1)
        outcome = Outcome()
        outcome.refuse(items[0], "error", reason_of(connection, target, error))
        return outcome


def _together(
    connection: Connection, target: Target, items: Sequence[Item], resolver: Resolver, read_at: datetime
) -> Outcome:
    outcome = Outcome()
    found = Found(connection, target.collection, [item.key for item in items])
    documents = [(item, item.document) for item in items if item.document is not None]
    resolver.learn(connection, (each for _, document in documents for each in references_of(document)))
    is_closed = is_ledger_closed(connection, target)
    is_postgres_alone = is_cut_over(connection, target.collection)
    made: list[_Made] = []
    ids = inserting.new_ids([document.id for _, document in documents])
    for (item, document), new_id in zip(documents, ids, strict=True):
        try:
            if is_postgres_alone and item.key not in found.existing:
                raise Unmappable(
                    "_id",
                    f"expected no new document: Postgres alone decides of {target.collection} since its cutover "
                    "(fleet cutover status)",
                )
            made.append(_made(target, item, document, new_id, found, resolver, is_closed))
        except Unmappable as error:
            severity: gaps.Severity = "error"
            if isinstance(error, NotBroughtOver):
                severity = "warning"
            elif isinstance(error, MoneyChanged):
                severity = "security"
            outcome.refuse(item, severity, str(error))
    _refer_to_later_rows(target, made, resolver)
    new = [(each.row_id, each.rows) for each in made if each.item.key not in found.existing]
    old = [(each.row_id, each.rows) for each in made if each.item.key in found.existing]
    inserting.insert(connection, target, new)
    outcome.inserted = len(new)
    changes = existing.update(connection, target, old, read_at, is_cut_over=is_postgres_alone)
    outcome.updated = len(changes.updated)
    inserting.record_ids(
        connection,
        target.collection,
        [(each.item.key, each.row_id) for each in made if each.item.key not in found.mapped],
    )
    for each in made:
        (outcome.waiting if each.waits else outcome.done).append(each.item.key)
        if each.row_id in changes.left:
            outcome.left.append(each.item.key)
        if each.row_id in changes.money:
            outcome.refuse(each.item, "security", changes.money[each.row_id])
    return outcome


def _made(
    target: Target, item: Item, document: Document, new_id: UUID, found: Found, resolver: Resolver, is_closed: bool
) -> _Made:
    if contradiction := found.contradicts(item.key):
        raise Unmappable("_id", contradiction.removeprefix("_id: "))
    row_id = found.existing.get(item.key) or found.mapped.get(item.key)
    is_new = item.key not in found.existing
    if is_new and target.collection == LEDGER:
        refuse_entry(item.decoded() or {}, ledger_closed=is_closed)
    rows = to_rows(document, resolver, without=tuple(each.attribute for each in target.deferred))
    if is_new:
        rows = complete(target, rows)
    return _Made(item, document, row_id or new_id, rows)


def _refer_to_later_rows(target: Target, made: Sequence[_Made], resolver: Resolver) -> None:
    """Fill references to the same or a later collection: NULL where the row is not there yet, for the second pass to set."""
    if not target.deferred:
        return
    here = {each.document.id: each.row_id for each in made}
    for each in made:
        for reference in target.deferred:
            object_id: ObjectId | None = getattr(each.document, reference.attribute)
            row_id = None
            if object_id is not None:
                row_id = resolver.uuid(reference.collection, object_id)
                if row_id is None and reference.collection == target.collection:
                    row_id = here.get(object_id)
                each.waits = each.waits or row_id is None
            each.rows.columns[reference.column] = row_id
