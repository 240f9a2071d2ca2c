"""Whether somebody changed in MongoDB what only the fleet may change (R7): documents beside their rows, field by field.

A document that the mirror has still to write is older than its row, and nobody's doing. Between reading MongoDB and reading
Postgres the mirror may have written, too. So a difference in what the fleet keeps changing is believed when a second look, at
a document read after the first look, finds the same row and nothing asked of the mirror at either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from custody.mirror.agreement.healing import is_behind, said_of
from custody.mirror.agreement.looking import FieldDifference, Look, Verdict, asked_for, differences
from custody.mirror.agreement.plan import Plan
from custody.mirror.agreement.rows import IdMapReferences, load, row_ids
from custody.mirror.backfill.references import Resolver
from custody.mirror.collections.document import (
    Document,
    Rows,
    Unmappable,
    as_stored,
    from_rows,
    read,
    references_of,
)
from custody.mirror.collections.marks import Owner
from custody.mirror.documents import SUBJECTS
from custody.mirror.following.changes import Change
from custody.mirror.following.positions import Again, Known
from custody.mirror.following.securing import Tampered, open_gaps
from custody.mirror.gaps import Report

BEHIND_PATIENCE: Final = timedelta(minutes=10)
"""How long a document may say that it is older than its row while nobody is asked to write it: by then the verification has
asked the mirror to (docs/mirror-agreement.md). Who sets ``updatedAt`` back hides nothing for longer."""

_FIELDS_MAXIMUM: Final = 50  # of a document that cannot be read, each looked at by itself; no mapping has more


@dataclass(slots=True)
class Judged:
    """``tampered``: reported, and not brought over. ``again``: looked at once more before anything is said. ``broken``: rows
    that cannot be read."""

    tampered: list[Tampered] = field(default_factory=list[Tampered])
    again: list[Again] = field(default_factory=list[Again])
    broken: list[Report] = field(default_factory=list[Report])


@dataclass(slots=True)
class _Case:
    """A document that has a row, and both as the mapping has them."""

    change: Change
    row_id: UUID
    row: Rows


def judge(
    connection: Connection, plan: Plan, changes: Sequence[Change], resolver: Resolver, before: Mapping[str, Known]
) -> Judged:
    """Judge those of these documents that have a row. ``before``: what a look before this one kept of them."""
    judged = Judged()
    if not changes:
        return judged
    keys = [each.key for each in changes]
    named = row_ids(connection, plan.collection, keys)
    references = _references(connection, changes, resolver)
    rows = load(connection, plan, [found[0] for found in named.values()])
    asked = asked_for(connection, plan, list(rows))
    refused = open_gaps(connection, plan.collection, keys).given_up
    guarded = [leaf for leaf in plan.leaves if leaf.owner is not Owner.MONGO]
    for change in changes:
        if change.key not in named:
            continue
        row_id = named[change.key][0]
        rows[row_id].columns["legacy_object_id"] = change.key
        try:
            ours = as_stored(read(plan.document, from_rows(plan.document, rows[row_id], references)))
        except Unmappable as error:
            judged.broken.append(Report(change.key, "error", f"Postgres: {error}", "{}"))
            continue
        theirs, unreadable = _theirs(change, plan.document, ours)
        found = [each for each in differences(guarded, theirs, ours) if each.name not in unreadable]
        found += [
            FieldDifference(leaf, unreadable[name], None)
            for leaf in guarded
            for name in unreadable
            if leaf.name == name or name.startswith(f"{leaf.name}.") or leaf.name.startswith(f"{name}.")
        ]
        if found:
            case = _Case(change, row_id, rows[row_id])
            _decide(judged, plan, case, found, asked, before.get(change.key), has_given_up=change.key in refused)
    return judged


def _decide(
    judged: Judged,
    plan: Plan,
    case: _Case,
    found: list[FieldDifference],
    asked: set[UUID],
    before: Known | None,
    *,
    has_given_up: bool,
) -> None:
    key, document = case.change.key, case.change.document
    row_changed_at: datetime | None = case.row.columns.get("updated_at")
    never = [each for each in found if each.leaf.owner is Owner.CREATE_ONLY or row_changed_at is None]
    theirs_at = getattr(document, "updated_at", None)
    look = Look(
        plan.collection, key, Verdict.FIELDS, "", tuple(found), case.row_id, document, theirs_at, row_changed_at
    )
    is_asked, is_older = case.row_id in asked, is_behind(look)
    if plan.collection not in SUBJECTS and theirs_at is not None and row_changed_at is not None:
        # Nobody writes the fleet's changes of it to MongoDB: an older document is as it was.
        is_asked = theirs_at < row_changed_at.replace(microsecond=row_changed_at.microsecond // 1000 * 1000)
    if never and not (is_asked and row_changed_at is None):
        _tamper(judged, case, never if is_asked or is_older else found)
        return
    if is_asked or has_given_up:
        judged.again.append(Again(key, "behind", case.change.written_at, row_changed_at))
        return
    is_seen_before = before is not None and before.row_changed_at == row_changed_at
    if is_older:
        if is_seen_before and before is not None and before.reason == "behind" and before.waited > BEHIND_PATIENCE:
            _tamper(judged, case, found)
        else:
            judged.again.append(Again(key, "behind", case.change.written_at, row_changed_at))
    elif is_seen_before and before is not None and before.reason == "suspected":
        _tamper(judged, case, found)
    else:
        judged.again.append(Again(key, "suspected", case.change.written_at, row_changed_at))


def _tamper(judged: Judged, case: _Case, found: list[FieldDifference]) -> None:
    reason, payload = said_of(found)
    judged.tampered.append(Tampered(case.change.key, reason, payload, case.change.written_at))


def _references(connection: Connection, changes: Sequence[Change], resolver: Resolver) -> IdMapReferences:
    """Both ways, with what the documents refer to known beforehand: their rows mostly refer to the same."""
    made = IdMapReferences(connection)
    for change in changes:
        for collection, object_id in references_of(change.document) if change.document is not None else ():
            row_id = resolver.uuid(collection, object_id)
            if row_id is not None:
                made.remember(collection, object_id, row_id)
    return made


def _theirs(change: Change, kind: type[Document], ours: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document as the mapping has it, and its fields that cannot be read: where those stand, the row's value is taken."""
    if change.document is not None:
        return as_stored(change.document), {}
    assert change.item is not None
    raw: dict[str, Any] | None = change.item.decoded()
    unreadable: dict[str, Any] = {}
    while raw is not None and len(unreadable) < _FIELDS_MAXIMUM:
        try:
            return as_stored(read(kind, raw)), unreadable
        except Unmappable as error:
            top = error.where.partition(".")[0]
            if error.where in unreadable:
                break
            unreadable[error.where] = str(raw.get(top, "nothing"))[:200]
            raw = {name: value for name, value in raw.items() if name != top}
            if top in ours:
                raw[top] = ours[top]
    return ours, unreadable or {"_id": "no document that can be read"}


def beyond_defaults(plan: Plan, change: Change) -> Tampered | None:
    """Of a document without a row: what it has in the fleet's fields that a new row would not, as a security gap."""
    assert change.document is not None
    theirs = as_stored(change.document)
    fleets = [leaf for leaf in plan.leaves if leaf.owner is Owner.FLEET]
    bare = as_stored(read(plan.document, _without(theirs, [leaf.path for leaf in fleets])))
    found = list(differences(fleets, theirs, bare))
    if not found:
        return None
    reason, payload = said_of(found)
    return Tampered(change.key, reason, payload, change.written_at)


def _without(document: dict[str, Any], paths: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    here = {path[0] for path in paths if len(path) == 1}
    below = {path[0] for path in paths if len(path) > 1}
    return {
        name: _without(value, [path[1:] for path in paths if path[0] == name and len(path) > 1])
        if name in below and isinstance(value, dict)
        else value
        for name, value in document.items()
        if name not in here
    }
