"""Documents whose digests differ, looked at whole: through the mapping, field by field, as both stores have them now."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from math import isnan
from typing import Any, Final
from uuid import UUID

from bson import ObjectId, json_util
from bson.codec_options import CodecOptions
from pymongo.database import Database
from sqlalchemy import Connection, Engine, text

from custody.mirror.agreement.plan import Leaf, Plan
from custody.mirror.agreement.reading import reading
from custody.mirror.agreement.rows import IdMapReferences, load, row_ids
from custody.mirror.collections.document import Document as Typed
from custody.mirror.collections.document import Unmappable, as_stored, from_rows, read
from custody.mirror.collections.marks import Owner
from custody.store.engine import forbid_inside_transaction
from custody.store.mongo import Document

GRACE: Final = timedelta(seconds=10)
"""How long one store may be behind the other: a write of the backend or of the mirror takes a fraction of a second."""

CLOCKS: Final = timedelta(seconds=5)  # how far a writer's clock may be ahead of ours; a later time excuses nothing
CHUNK: Final = 500  # documents a look

_CODEC: Final[CodecOptions[Document]] = CodecOptions(document_class=dict, tz_aware=True, tzinfo=UTC)
_MISSING: Final = object()

_ASKED_FOR: Final = text(
    "SELECT document_id FROM fleet.outbox WHERE queue = 'mirror' AND collection = :collection AND document_id = ANY(:ids)"
)
_NOT_ASKED_YET: Final = text(
    "SELECT e.id FROM public.funds_ledger_entries e WHERE e.id = ANY(:ids) "
    "AND e.tx_id >= (SELECT next_tx FROM fleet.mirror_cursor)"
)


class Verdict(Enum):
    """What a look found."""

    EQUAL = "equal"
    WAITING = "waiting"
    FIELDS = "fields differ"
    NO_ROW = "no row"
    NO_DOCUMENT = "no document"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field: what each store has (None: nothing), by the mapping."""

    leaf: Leaf
    mongo: Any
    postgres: Any

    @property
    def name(self) -> str:
        return self.leaf.name


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of one document."""

    collection: str
    object_id: str
    verdict: Verdict
    reason: str = ""
    fields: tuple[FieldDifference, ...] = ()
    row_id: UUID | None = None
    document: Typed | None = None
    mongo_changed_at: datetime | None = None
    postgres_changed_at: datetime | None = None

    def owned_by(self, owner: Owner) -> list[FieldDifference]:
        return [each for each in self.fields if each.leaf.owner is owner]


def look(
    engine: Engine, database: Database[Document], plan: Plan, object_ids: Iterable[Any], began: datetime
) -> Iterator[Look]:
    """What both stores have of these _ids now. ``began``: when the reads began that found them different."""
    wanted = list(object_ids)
    for start in range(0, len(wanted), CHUNK):
        yield from _chunk(engine, database, plan, wanted[start : start + CHUNK], began)


def _chunk(
    engine: Engine, database: Database[Document], plan: Plan, ids: Sequence[Any], began: datetime
) -> Iterator[Look]:
    forbid_inside_transaction("MongoDB")
    collection = database[plan.collection].with_options(codec_options=_CODEC)
    hidden = dict.fromkeys((*plan.document.dropped, *plan.left_out), 0)
    # Some writers kept the hex text of an id: the mapping takes it for the ObjectId.
    asked = [*ids, *(str(each) for each in ids if isinstance(each, ObjectId))]
    documents = {str(found["_id"]): found for found in collection.find({"_id": {"$in": asked}}, hidden or None)}
    keys = [str(each) for each in ids]
    with reading(engine) as connection:
        named = row_ids(connection, plan.collection, keys)
        references = IdMapReferences(connection)
        rows = load(connection, plan, [each for found in named.values() for each in found])
        behind = asked_for(connection, plan, list(rows))
        for key in keys:
            of_document = named.get(key, [])
            found = _compare(plan, key, documents.get(key), of_document, rows, references)
            yield _excused(found, began, is_behind=any(each in behind for each in of_document))


def asked_for(connection: Connection, plan: Plan, ids: list[UUID]) -> set[UUID]:
    """Rows that the mirror is still asked to write, or will be."""
    found = set(connection.execute(_ASKED_FOR, {"collection": plan.collection, "ids": ids}).scalars())
    if plan.collection == "fundsledgerentries":
        found |= set(connection.execute(_NOT_ASKED_YET, {"ids": ids}).scalars())
    return found


def _compare(  # noqa: PLR0911 - each return is one thing that can be said
    plan: Plan,
    key: str,
    raw: Document | None,
    row_ids: list[UUID],
    rows: Mapping[UUID, Any],
    references: IdMapReferences,
) -> Look:
    collection = plan.collection
    fillers = {name: "" for name in plan.left_out if name not in _optional(plan)}
    if raw is None and not row_ids:
        return Look(collection, key, Verdict.EQUAL, "it is gone from both")
    document: Typed | None = None
    if raw is not None:
        try:
            document = read(plan.document, {**raw, **fillers})
        except Unmappable as error:
            return Look(collection, key, Verdict.UNREADABLE, f"MongoDB: {error}")
    mongo_at = getattr(document, "updated_at", None)
    if not row_ids:
        return Look(collection, key, Verdict.NO_ROW, "Postgres has no row of it", (), None, document, mongo_at)
    row = rows[row_ids[0]]
    changed = row.columns.get("updated_at")
    if len(row_ids) > 1:
        also = ", ".join(map(str, row_ids))
        return Look(collection, key, Verdict.UNREADABLE, f"Postgres: {len(row_ids)} rows are this document: {also}")
    if document is None:
        reason = "MongoDB has no document of this row"
        return Look(collection, key, Verdict.NO_DOCUMENT, reason, (), row_ids[0], None, None, changed)
    row.columns["legacy_object_id"] = key
    try:
        ours = as_stored(read(plan.document, {**from_rows(plan.document, row, references), **fillers}))
    except Unmappable as error:
        return Look(collection, key, Verdict.UNREADABLE, f"Postgres: {error}", (), row_ids[0])
    found = tuple(differences(plan.leaves, as_stored(document), ours))
    verdict = Verdict.FIELDS if found else Verdict.EQUAL
    return Look(collection, key, verdict, "", found, row_ids[0], document, mongo_at, changed)


def _optional(plan: Plan) -> set[str]:
    fields = plan.document.model_fields.values()
    return {info.alias or "" for info in fields if not info.is_required()}


def _excused(found: Look, began: datetime, *, is_behind: bool) -> Look:
    """The same, or that it waits: what is being changed just now is looked at again before it is called different."""
    if found.verdict not in (Verdict.FIELDS, Verdict.NO_ROW, Verdict.NO_DOCUMENT):
        return found
    now = datetime.now(UTC)
    changed = [at for at in (found.mongo_changed_at, found.postgres_changed_at) if at is not None]
    is_recent = any(began - GRACE <= at <= now + CLOCKS for at in changed)
    if not is_behind and not is_recent:
        return found
    why = "the mirror is asked to write it" if is_behind else "it was changed moments ago"
    return Look(
        found.collection, found.object_id, Verdict.WAITING, why, found.fields, found.row_id, found.document,
        found.mongo_changed_at, found.postgres_changed_at,
    )  # fmt: skip


def differences(leaves: Iterable[Leaf], mongo: Document, postgres: Document) -> Iterator[FieldDifference]:
    """The fields that are not the same in two documents of the mapping's own form."""
    for leaf in leaves:
        theirs, ours = _at(mongo, leaf.path), _at(postgres, leaf.path)
        if leaf.is_unordered:
            theirs, ours = _sorted(theirs), _sorted(ours)
        if not same(theirs, ours):
            yield FieldDifference(leaf, None if theirs is _MISSING else theirs, None if ours is _MISSING else ours)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return _MISSING
        document = document[name]
    return document


def _sorted(values: Any) -> Any:
    return sorted(values, key=said) if isinstance(values, list) else values


def said(value: Any) -> str:
    """A value as people read it: amounts with all their digits."""
    options = json_util.RELAXED_JSON_OPTIONS
    return (
        "nothing" if value is None else json_util.dumps(value, json_options=options, sort_keys=True, ensure_ascii=False)
    )


def same(one: Any, other: Any) -> bool:
    """Whether two values are one: true is not 1 here, though 1 is 1.0, as jsonb has it."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(item, other[name]) for name, item in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (_is_nan(one) and _is_nan(other))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and isnan(value)
