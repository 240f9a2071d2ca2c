"""Documents that may have changed, into Postgres, in the caller's transaction: judged first (R7), then brought over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import Connection, text

from custody.mirror import gaps
from custody.mirror.agreement.plan import Plan
from custody.mirror.backfill.applying import apply
from custody.mirror.backfill.later_references import apply_references
from custody.mirror.backfill.reading import Item
from custody.mirror.backfill.references import Resolver, existing_rows
from custody.mirror.collections.document import references_of
from custody.mirror.collections.marks import Owner
from custody.mirror.following import securing
from custody.mirror.following.changes import Change
from custody.mirror.following.comparing import compare
from custody.mirror.following.judging import beyond_defaults, judge
from custody.mirror.following.positions import Again, Known, forget, known, schedule
from custody.mirror.following.removing import remove
from custody.mirror.following.rights import OP, followed, is_guarded, is_made_by_fleet, owners_of
from custody.mirror.following.securing import Tampered

log = structlog.get_logger(__name__)

_BROUGHT_OVER: Final = text(
    "SELECT EXISTS (SELECT FROM fleet.backfill_progress WHERE collection = :collection AND stage = 'documents' "
    "AND finished_at IS NOT NULL AND since IS NULL)"
)


@dataclass(slots=True)
class Outcome:
    """``applied``: brought over, or equal already; ``refused``: gaps, new and old; ``waits``: looked at again."""

    applied: int = 0
    removed: int = 0
    refused: int = 0
    tampered: int = 0
    waits: int = 0

    def add(self, other: "Outcome") -> None:
        for name in Outcome.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Work:
    """One collection's documents on their way. ``reported``: those with gaps that close by themselves; ``before``: what was
    kept of a look before."""

    reported: set[str]
    before: Mapping[str, Known]
    again: list[Again] = field(default_factory=list[Again])
    tampered: list[Tampered] = field(default_factory=list[Tampered])
    refused: list[gaps.Report] = field(default_factory=list[gaps.Report])
    equal: int = 0


def apply_changes(
    connection: Connection,
    plan: Plan,
    changes: Sequence[Change],
    resolver: Resolver,
    read_at: datetime,
    began: datetime,
) -> Outcome:
    """Bring one collection's documents over. ``read_at``: Postgres' time before they were read; ``began``: when following did.

    Rows get what MongoDB owns, and new rows what is set once as well. A document that somebody changed where only the fleet
    may becomes a security gap and is left alone, as long as a security gap of it is open.
    """
    collection = plan.collection
    keys = [each.key for each in changes]
    reported = securing.open_gaps(connection, collection, keys)
    before = known(connection, collection, keys)
    frozen = reported.frozen
    outcome = Outcome()
    work = _Work(
        reported.followed - frozen,
        before,
        [Again(each.key, "frozen", each.written_at) for each in changes if each.key in frozen],
    )
    changes = [each for each in changes if each.key not in frozen]
    outcome.removed = remove(connection, collection, [each for each in changes if each.item is None])
    there = [each for each in changes if each.item is not None]
    chosen = _chosen(connection, plan, there, resolver, work, began) if is_guarded(collection) else there
    brought = _bring(connection, collection, chosen, resolver, read_at, work)
    gaps.report(connection, OP, collection, work.refused)
    for key in securing.report(connection, collection, work.tampered):
        log.error(
            "mirror_tampered", collection=collection, document=key, unblocks="fleet gaps list --severity security"
        )
    waits = {each.object_id: Again(each.object_id, "frozen", each.written_at) for each in work.tampered}
    for each in work.again:
        waits.setdefault(each.object_id, each)
    schedule(connection, collection, list(waits.values()))
    forget(connection, collection, [key for key in before if key not in waits])
    outcome.applied = brought + work.equal
    outcome.tampered = len(work.tampered)
    outcome.refused = len(work.refused) + len(work.tampered)
    outcome.waits = len(waits)
    return outcome


def _chosen(
    connection: Connection,
    plan: Plan,
    there: Sequence[Change],
    resolver: Resolver,
    work: _Work,
    began: datetime,
) -> list[Change]:
    """Those that may be brought over. What stands against the others is in ``work``."""
    collection = plan.collection
    keys = [each.key for each in there]
    rows = existing_rows(connection, collection, keys)
    resolver.learn(
        connection,
        (each for change in there if change.document is not None for each in references_of(change.document)),
    )
    compared = compare(connection, collection, [each for each in there if each.key in rows], rows, resolver)
    judged = judge(connection, plan, compared.odd, resolver, work.before)
    gaps.close(connection, OP, collection, sorted(compared.equal & work.reported))
    work.equal = len(compared.equal)
    work.tampered += judged.tampered
    work.again += (*judged.again, *compared.older)
    work.refused += judged.broken
    work.again += [Again(each.object_id, "refused") for each in judged.broken]
    stopped = compared.equal | {each.object_id for each in (*judged.tampered, *judged.broken)}
    stopped |= {each.object_id for each in judged.again if each.reason == "suspected"}
    new = [each for each in there if each.key not in rows and each.document is not None]
    is_whole = bool(new) and connection.execute(_BROUGHT_OVER, {"collection": collection}).scalar_one()
    for change in new:
        if (found := _against_new(plan, change)) is None:
            continue
        if not is_whole and change.object_id.generation_time < began:
            stopped.add(change.key)
            work.refused.append(_of_before(change, found))
            work.again.append(Again(change.key, "refused", change.written_at))
        else:
            work.tampered.append(found)
            if is_made_by_fleet(collection):
                stopped.add(change.key)
    return [each for each in there if each.key not in stopped]


def _against_new(plan: Plan, change: Change) -> Tampered | None:
    assert change.item is not None
    if not is_made_by_fleet(plan.collection):
        return beyond_defaults(plan, change) if Owner.FLEET in owners_of(plan.collection) else None
    payload = gaps.payload_of(change.item.decoded(), len(change.item.raw))
    return Tampered(
        change.key,
        "_id: expected no document here that the fleet did not make, and it has no row",
        payload,
        change.written_at,
    )


def _of_before(change: Change, found: Tampered) -> gaps.Report:
    assert change.item is not None
    reason = f"{found.reason.partition(':')[0]}: expected its collection brought over first: fleet mirror backfill"
    return gaps.Report(change.key, "error", reason, gaps.payload_of(change.item.decoded(), len(change.item.raw)))


def _bring(
    connection: Connection,
    collection: str,
    chosen: Sequence[Change],
    resolver: Resolver,
    read_at: datetime,
    work: _Work,
) -> int:
    if not chosen:
        return 0
    target = followed(collection)
    items = {each.key: each.item for each in chosen if each.item is not None}
    if not target.updatable and is_made_by_fleet(collection):
        return _leave(connection, collection, list(items.values()), work)
    is_reported = not work.reported.isdisjoint(items)
    done = apply(connection, target, list(items.values()), resolver, read_at, op=OP, closes=is_reported)
    written = {each.key: each.written_at for each in chosen}
    if done.waiting:
        waiting = [items[key] for key in done.waiting]
        referred = apply_references(connection, target, waiting, resolver, op=OP)
        work.again += [Again(key, "refused", written[key]) for key in sorted(referred.waiting)]
    left = set(done.left)
    work.again += [Again(key, "left", written[key]) for key in sorted(left)]
    # What cannot be read waits for its next change; what another row, or another document, stands against, may heal.
    refused = {each.object_id for each in done.refused}
    work.again += [Again(key, "refused", written[key]) for key in sorted(refused) if items[key].refusal is None]
    return len({*done.done, *done.waiting} - refused)


def _leave(connection: Connection, collection: str, items: Sequence[Item], work: _Work) -> int:
    """Of documents that are the fleet's whole there is nothing to bring over: they are as they should be, or unreadable."""
    work.refused += [
        gaps.Report(each.key, "error", each.refusal, gaps.payload_of(each.decoded(), len(each.raw)))
        for each in items
        if each.refusal is not None
    ]
    well = [each.key for each in items if each.refusal is None]
    gaps.close(connection, OP, collection, sorted(work.reported.intersection(well)))
    return len(well)
