"""Verification of whole collections: digests of both stores, then a look at what differs, then what is done about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from typing import Any, Final

from pymongo.database import Database
from sqlalchemy import Connection, Engine, text

from custody.mirror.agreement import keeping
from custody.mirror.agreement.digests import (
    Nameless,
    Range,
    Records,
    bounds,
    differing,
    digest_documents,
    digest_rows,
    nameless,
)
from custody.mirror.agreement.healing import Deed, settle
from custody.mirror.agreement.keeping import Counts
from custody.mirror.agreement.looking import Look, Verdict, look
from custody.mirror.agreement.plan import Plan, plans
from custody.mirror.agreement.reading import moment_of, reading, snapshot
from custody.mirror.agreement.sharing import Alone, Sharing
from custody.store.engine import transaction
from custody.store.mongo import Document

RANGE_DOCUMENTS: Final = 50_000
"""Rows a range: 1.4 MB of records; enough that joining to the referred tables is paid for, few enough to share out."""

LOOK_MAXIMUM: Final = 5_000
"""Documents of a collection that are looked at whole in a round; more are counted as different and named by the next ones.
A million that are missing would take longer to name than to bring over."""

Progress = Callable[[str, int, int], None]
"""Collection, documents done, rows expected."""

_STATES: Final = {
    Deed.HEALED: "healed",
    Deed.ASKED: "asked",
    Deed.SECURITY: "security",
    Deed.ACCEPTED: "accepted",
    Deed.LEFT: "open",
}
_COLUMNS: Final = text(
    """
    SELECT r.relname, a.attname FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE r.relnamespace = 'public'::regnamespace AND r.relkind IN ('r', 'p')
      AND has_column_privilege(r.oid, a.attnum, 'SELECT')
    """
)


def _say_nothing(collection: str, done: int, expected: int) -> None: ...


@dataclass(slots=True)
class Outcome:
    """One collection. ``looks``: what is not equal, each with what was done about it; ``unnamed``: different, not looked at."""

    collection: str
    counted: Counts = field(default_factory=Counts)
    looks: list[tuple[Look, Deed]] = field(default_factory=list[tuple[Look, Deed]])
    unnamed: int = 0
    left_out: tuple[str, ...] = ()
    digest: bytes = b""
    seconds: float = 0.0
    is_snapshot: bool = True

    @property
    def is_equal(self) -> bool:
        return not self.counted.different and not self.counted.unreadable


def readable_plans(connection: Connection) -> dict[str, Plan]:
    """The plans of what this session may read: a role of the fleet has no credentials in them."""
    may_read = {(row.relname, row.attname) for row in connection.execute(_COLUMNS)}
    return plans(lambda table, column: (table, column) in may_read)


def verify(
    engine: Engine,
    database: Database[Document],
    collections: Iterable[str] | None = None,
    *,
    heal: bool = False,
    sharing: Sharing | None = None,
    progress: Progress = _say_nothing,
) -> list[Outcome]:
    """Compare whole collections (None: all that may be read), keep what was found, and heal if asked.

    Raises LookupError for a collection that is not mapped or may not be read.
    """
    with reading(engine) as connection:
        known = readable_plans(connection)
    wanted = list(known) if collections is None else list(collections)
    if unknown := sorted(set(wanted) - set(known)):
        raise LookupError(f"{', '.join(unknown)}: expected some of {', '.join(known)}, which this role may read")
    return [_verify(engine, database, known[name], heal, sharing or Alone(), progress) for name in wanted]


def _verify(
    engine: Engine, database: Database[Document], plan: Plan, heal: bool, sharing: Sharing, progress: Progress
) -> Outcome:
    started = monotonic()
    began = datetime.now(UTC)
    outcome = Outcome(plan.collection, left_out=plan.left_out)
    with snapshot(database) as session:
        outcome.is_snapshot = session is not None
        shared = sharing.start(plan, moment_of(session))
        with reading(engine) as connection:
            ranges = bounds(connection, plan, RANGE_DOCUMENTS, Range())
            for each in ranges:
                shared.submit(each)
            rows = [digest_rows(connection, plan, each) for each in ranges]
            lost, lost_count = nameless(connection, plan)
        expected = sum(each.count for each in rows) + lost_count
        documents: list[Records] = []
        for each in ranges:
            found = shared.result(each)
            documents.append(digest_documents(database, plan, each, session) if found is None else found)
            progress(plan.collection, sum(item.count for item in documents), expected)
    outcome.digest = sha256(b"".join(each.digest for each in documents)).digest()
    candidates = [
        found for ours, theirs in zip(rows, documents, strict=True) for found in count_range(outcome, ours, theirs)
    ]
    judge(engine, database, plan, outcome, candidates, began, heal=heal)
    count_nameless(outcome, lost, lost_count)
    with transaction(engine) as connection:
        keeping.resolve_others(connection, plan.collection, Range(), [each for each, _ in outcome.looks])
        keeping.finish(
            connection, plan.collection, outcome.counted, began=began, digest=outcome.digest, left_out=plan.left_out
        )
    outcome.seconds = monotonic() - started
    return outcome


def count_range(outcome: Outcome, rows: Records, documents: Records) -> list[Any]:
    """The _ids of a range that must be looked at whole; everything else is counted here."""
    equal, found = differing(rows, documents)
    outcome.counted.add(Counts(documents=documents.count, rows=rows.count, equal=equal))
    return list(dict.fromkeys((*found, *documents.odd)))


def judge(
    engine: Engine,
    database: Database[Document],
    plan: Plan,
    outcome: Outcome,
    ids: list[Any],
    began: datetime,
    *,
    heal: bool,
) -> None:
    """Judge the candidates. What waits is looked at once more, after all others."""
    chosen, outcome.unnamed = ids[:LOOK_MAXIMUM], max(0, len(ids) - LOOK_MAXIMUM)
    outcome.counted.different += outcome.unnamed
    found = list(look(engine, database, plan, chosen, began))
    waiting = {each.object_id for each in found if each.verdict is Verdict.WAITING}
    again = [object_id for object_id in chosen if str(object_id) in waiting]
    judged = [each for each in found if each.object_id not in waiting]
    judged += look(engine, database, plan, again, began)
    for each in judged:
        if each.verdict is Verdict.EQUAL:
            outcome.counted.equal += each.row_id is not None
            continue
        deed = settle(engine, plan, each, heal=heal)
        outcome.looks.append((each, deed))
        with transaction(engine) as connection:
            state = keeping.record(connection, each, _state(each, deed))
        if each.verdict is Verdict.UNREADABLE:
            outcome.counted.unreadable += 1
        elif state == "waiting":
            outcome.counted.waiting += 1
        else:
            outcome.counted.different += 1


def _state(found: Look, deed: Deed) -> str:
    if found.verdict is Verdict.UNREADABLE:
        return "unreadable"
    return "waiting" if found.verdict is Verdict.WAITING else _STATES[deed]


def count_nameless(outcome: Outcome, lost: list[Nameless], total: int) -> None:
    """Rows that name no document: they were never mirrored, or their ObjectId is none."""
    outcome.counted.rows += total
    outcome.counted.different += total
    outcome.unnamed += total - len(lost)
    for each in lost:
        stands = "none" if each.legacy_object_id is None else repr(each.legacy_object_id[:60])
        reason = f"row {each.row_id}: its ObjectId is {stands}, expected 24 hex digits in small letters"
        outcome.looks.append(
            (Look(outcome.collection, str(each.row_id), Verdict.NO_DOCUMENT, reason, row_id=each.row_id), Deed.LEFT)
        )
