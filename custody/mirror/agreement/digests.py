"""Digests of one range of ObjectIds in both stores: a record a document, its ObjectId and 128 bits of SHA-256.

Postgres makes its records where the rows are and sends 28 bytes a row; MongoDB has nothing that hashes what we compare, so
its documents are read and hashed here. Two ranges are equal when their records are; what differs names the documents.
"""

import gc
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, cast
from uuid import UUID

from bson import MaxKey, MinKey, ObjectId, decode_iter
from bson.codec_options import CodecOptions
from pymongo.client_session import ClientSession
from pymongo.database import Database
from sqlalchemy import Connection, text

from custody.mirror.agreement.plan import Plan
from custody.store.mongo import Document

ID_BYTES: Final = 12
HASH_BYTES: Final = 16
"""128 bits of SHA-256: a writer who can choose both texts would need 2**64 tries for two that look the same."""

RECORD_BYTES: Final = ID_BYTES + HASH_BYTES

FIRST: Final = ""
"""Below every ObjectId's hex."""

LAST: Final = "g"
"""Above every ObjectId's hex."""

NAMELESS_MAXIMUM: Final = 1_000  # rows without a usable ObjectId that are named; the others are counted

BATCH_DOCUMENTS: Final = (
    2_000  # a reply of about 2 MB: large enough to cost no round trips, small enough to stay in cache
)

_CODEC: Final[CodecOptions[Document]] = CodecOptions(document_class=dict, tz_aware=False)

# In a coalesce, of which the planner expects half of the rows: of the bare comparisons it expects one row in 40,000, and
# then it reads the referred tables anew for each.
_USABLE: Final = "coalesce(length({0}) = 24 AND translate({0}, '0123456789abcdef', '') = '', false)"


@dataclass(frozen=True, slots=True)
class Range:
    """ObjectIds from ``start`` on and below ``end``, as hex texts."""

    start: str = FIRST
    end: str = LAST

    @property
    def is_last(self) -> bool:
        return self.end == LAST


@dataclass(slots=True)
class Records:
    """One store's side of a range: its records in the order of their ObjectIds, and ids that must be looked at whole."""

    blob: bytes
    odd: list[Any] = field(default_factory=list[Any])
    """_ids of documents that the encoder would not take."""

    @property
    def count(self) -> int:
        return len(self.blob) // RECORD_BYTES + len(self.odd)

    @property
    def digest(self) -> bytes:
        return sha256(self.blob).digest()

    def each(self) -> set[bytes]:
        blob = self.blob
        return {blob[start : start + RECORD_BYTES] for start in range(0, len(blob), RECORD_BYTES)}


def differing(rows: Records, documents: Records) -> tuple[int, list[ObjectId]]:
    """How many records both have, and the ObjectIds of those that are not the same or in one store alone, in order."""
    if rows.blob == documents.blob:
        return len(rows.blob) // RECORD_BYTES, []
    ours, theirs = rows.each(), documents.each()
    found = {record[:ID_BYTES] for record in ours ^ theirs}
    return len(ours & theirs), [ObjectId(each) for each in sorted(found)]


# Postgres -----------------------------------------------------------------------------------------------------------


def _named(plan: Plan, columns: Sequence[str]) -> str:
    """The rows of a range with their ObjectIds: their own, or the one that id_map gave a row born in Postgres."""
    own = "".join(f', t."{name}"' for name in columns)
    return (
        f"SELECT t.legacy_object_id AS oid{own} FROM {plan.table} t "  # noqa: S608 - the mapping names them all
        f"WHERE t.legacy_object_id >= :start AND t.legacy_object_id < :end AND {_USABLE.format('t.legacy_object_id')} "
        f"UNION ALL SELECT m.legacy_object_id{own} FROM public.id_map m JOIN {plan.table} t ON t.id = m.new_id "
        f"WHERE m.collection = '{plan.collection}' AND m.legacy_object_id >= :start AND m.legacy_object_id < :end "
        f"AND {_USABLE.format('m.legacy_object_id')} AND t.legacy_object_id IS NULL"
    )


def bounds(connection: Connection, plan: Plan, size: int, within: Range) -> list[Range]:
    """``within`` in ranges of about ``size`` rows each."""
    starts = connection.execute(
        text(
            f"SELECT oid FROM (SELECT oid, row_number() OVER (ORDER BY oid) - 1 AS n FROM ({_named(plan, ())}) named) numbered "  # noqa: S608 - the mapping names them all
            "WHERE n > 0 AND n % :size = 0 ORDER BY n"
        ),
        {"size": size, "start": within.start, "end": within.end},
    ).scalars()
    edges = [within.start, *starts, within.end]
    return [Range(start, end) for start, end in pairwise(edges)]


def next_range(connection: Connection, plan: Plan, start: str, size: int) -> Range:
    """The range of at most ``size`` rows from ``start`` on; the last one is open."""
    end: str | None = connection.execute(
        text(f"SELECT oid FROM ({_named(plan, ())}) named ORDER BY oid OFFSET :size LIMIT 1"),  # noqa: S608 - the mapping names them all
        {"size": size, "start": start, "end": LAST},
    ).scalar()
    return Range(start, end or LAST)


def digest_rows(connection: Connection, plan: Plan, within: Range) -> Records:
    """Postgres' records of a range."""
    blob: bytes | None = connection.execute(
        text(
            f"""
            SELECT string_agg(decode(d.oid, 'hex') || substring(sha256(convert_to(d.said, 'UTF8')) FOR {HASH_BYTES}),
                ''::bytea ORDER BY d.oid COLLATE "C")
            FROM (SELECT t.oid, {plan.text} AS said FROM ({_named(plan, plan.columns)}) t {plan.joins}) d
            """  # noqa: S608 - the mapping names them all
        ),
        {"start": within.start, "end": within.end},
    ).scalar_one()
    return Records(b"" if blob is None else bytes(blob))


@dataclass(frozen=True, slots=True)
class Nameless:
    """A row whose document cannot be named: what stands where its ObjectId should, if anything."""

    row_id: UUID
    legacy_object_id: str | None


def nameless(connection: Connection, plan: Plan) -> tuple[list[Nameless], int]:
    """Rows without a usable ObjectId, at most NAMELESS_MAXIMUM of them, and how many there are."""
    found = connection.execute(
        text(
            f"""
            SELECT t.id, t.legacy_object_id, count(*) OVER () AS total FROM {plan.table} t
            WHERE (t.legacy_object_id IS NOT NULL AND NOT ({_USABLE.format("t.legacy_object_id")}))
               OR (t.legacy_object_id IS NULL AND NOT EXISTS (
                    SELECT FROM public.id_map m WHERE m.new_id = t.id AND m.collection = '{plan.collection}'
                        AND {_USABLE.format("m.legacy_object_id")}))
            ORDER BY t.id LIMIT :most
            """  # noqa: S608 - the mapping names them all
        ),
        {"most": NAMELESS_MAXIMUM},
    ).all()
    return [Nameless(row.id, row.legacy_object_id) for row in found], found[0].total if found else 0


# MongoDB ------------------------------------------------------------------------------------------------------------


def digest_documents(
    database: Database[Document], plan: Plan, within: Range, session: ClientSession | None = None
) -> Records:
    """MongoDB's records of a range, hashed here. The first and the last range take ids of every other type as well."""
    start: Any = MinKey() if within.start == FIRST else ObjectId(within.start)
    end: Any = MaxKey() if within.end == LAST else ObjectId(within.end)
    # Index bounds: a filter on _id would pass over ids that are no ObjectIds.
    cursor = database[plan.collection].find_raw_batches(
        {}, _projection(plan), session=session, batch_size=BATCH_DOCUMENTS
    )
    cursor = cursor.hint([("_id", 1)]).min([("_id", start)]).max([("_id", end)])
    records: list[bytes] = []
    odd: list[Any] = []
    with _no_collector():
        for batch in cursor:
            _digest_batch(plan, decode_iter(cast(bytes, batch), _CODEC), records, odd)
    return Records(b"".join(records), odd)


def _digest_batch(plan: Plan, documents: Iterable[Document], records: list[bytes], odd: list[Any]) -> None:
    encode = plan.encode
    for document in documents:
        object_id = document.pop("_id")
        try:
            said = encode(document).encode()
            records.append(object_id.binary + sha256(said).digest()[:HASH_BYTES])
        except (ValueError, TypeError, AttributeError, ArithmeticError):
            odd.append(object_id)


@contextmanager
def _no_collector() -> Generator[None]:
    """Decoded documents hold no cycles, and looking for some took more than half of the time to decode them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _projection(plan: Plan) -> dict[str, int] | None:
    """What is not compared is not read either: some of it is secret."""
    return dict.fromkeys((*plan.document.dropped, *plan.left_out), 0) or None
