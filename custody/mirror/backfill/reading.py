"""Documents of MongoDB in the order of their _id, a bounded batch at a time; each is read by itself, so that a bad one is alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import bson
from bson import ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.database import Database

from custody.mirror.collections.document import Document, Unmappable, read, unknown_fields
from custody.store.engine import forbid_inside_transaction
from custody.store.mongo import Document as RawDocument

BATCH_BYTES_MAXIMUM: Final = 8 * 1024 * 1024
"""A batch ends here: a thousand chats of 16 MiB each would be more than a machine has."""

# Dates beyond Python's years are kept apart, so that the field that has one is named.
_DECODED: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
_STARTS_WITH_OBJECT_ID: Final = b"\x07_id\x00"  # nearly every document does: it need not be read twice


@dataclass(frozen=True, slots=True)
class Item:
    """One document. ``key``: its _id as text. Without ``document``, ``refusal`` names the field and what was expected."""

    key: str
    raw: bytes
    document: Document | None = None
    refusal: str | None = None
    unknown: tuple[str, ...] = ()

    def decoded(self) -> dict[str, Any] | None:
        """The document as it stands, or None where it is no BSON that can be read."""
        try:
            return bson.decode(self.raw, _DECODED)
        except (BSONError, OverflowError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents in the order of _id. ``last_id`` is the last one's; ``is_last``: none follow."""

    items: tuple[Item, ...]
    last_id: Any
    is_last: bool


def changed_since(since: datetime | None) -> dict[str, Any]:
    """The filter of documents that were changed since then. One whose updatedAt is no date is always among them."""
    if since is None:
        return {}
    return {"$or": [{"updatedAt": {"$gte": since}}, {"updatedAt": {"$not": {"$type": "date"}}}]}


def read_batch(
    database: Database[RawDocument],
    kind: type[Document],
    *,
    after: Any,
    condition: Mapping[str, Any],
    limit: int,
) -> Batch:
    """The next documents behind ``after`` (None: from the first), at most ``limit`` and BATCH_BYTES_MAXIMUM, at least one.

    Raises PyMongoError when MongoDB does not answer.
    """
    items: list[Item] = []
    size = 0
    last_id: Any = after
    for document, object_id in _documents(database, kind, after, condition, limit, None):
        if items and (len(items) == limit or size + len(document.raw) > BATCH_BYTES_MAXIMUM):
            return Batch(tuple(items), last_id, is_last=False)
        items.append(item_of(kind, bytes(document.raw), object_id))
        size += len(document.raw)
        last_id = object_id
    return Batch(tuple(items), last_id, is_last=True)


def read_parts(
    database: Database[RawDocument],
    kind: type[Document],
    fields: Sequence[str],
    *,
    after: Any,
    condition: Mapping[str, Any],
    limit: int,
) -> Batch:
    """As ``read_batch``, only these fields of each document, and no document read by its class."""
    items: list[Item] = []
    last_id: Any = after
    for document, object_id in _documents(database, kind, after, condition, limit, fields):
        if len(items) == limit:
            return Batch(tuple(items), last_id, is_last=False)
        items.append(Item(key_of(object_id), bytes(document.raw)))
        last_id = object_id
    return Batch(tuple(items), last_id, is_last=True)


def _documents(
    database: Database[RawDocument],
    kind: type[Document],
    after: Any,
    condition: Mapping[str, Any],
    limit: int,
    fields: Sequence[str] | None,
) -> Iterator[tuple[RawBSONDocument, Any]]:
    """Documents behind ``after`` and their _ids; one more than ``limit``, where there is one."""
    forbid_inside_transaction("MongoDB")
    collection = database.with_options(codec_options=_RAW)[kind.collection]
    cursor = collection.find(condition, projection=fields).sort([("_id", 1)]).hint([("_id", 1)])
    cursor = cursor.limit(limit + 2).batch_size(limit + 2)
    if after is not None:
        # Not {"$gt": after}, which passes over every _id of another type.
        cursor = cursor.min([("_id", after)])
    with cursor:
        for document in cursor:
            raw = document.raw
            object_id = ObjectId(bytes(raw[9:21])) if raw[4:9] == _STARTS_WITH_OBJECT_ID else document["_id"]
            if object_id != after or type(object_id) is not type(after):
                yield document, object_id


def read_chosen(
    database: Database[RawDocument],
    kind: type[Document],
    object_ids: Sequence[ObjectId],
    session: ClientSession | None = None,
) -> Iterator[tuple[ObjectId, Item]]:
    """Those of these documents that are there, as they are now, or as ``session`` has to see them."""
    forbid_inside_transaction("MongoDB")
    collection = database.with_options(codec_options=_RAW)[kind.collection]
    with collection.find({"_id": {"$in": list(object_ids)}}, session=session) as cursor:
        for document in cursor:
            raw = bytes(document.raw)
            object_id = ObjectId(raw[9:21]) if raw[4:9] == _STARTS_WITH_OBJECT_ID else document["_id"]
            yield object_id, item_of(kind, raw, object_id)


def read_one(database: Database[RawDocument], kind: type[Document], object_id: Any) -> Item | None:
    """One document by its _id, or None where there is none."""
    forbid_inside_transaction("MongoDB")
    collection = database.with_options(codec_options=_RAW)[kind.collection]
    document = collection.find_one({"_id": object_id})
    return None if document is None else item_of(kind, bytes(document.raw), object_id)


def key_of(object_id: Any) -> str:
    """An _id as text: an ObjectId's 24 hex digits; anything else as Extended JSON."""
    return str(object_id) if isinstance(object_id, ObjectId) else json_util.dumps(object_id)[:200]


def item_of(kind: type[Document], raw: bytes, object_id: Any) -> Item:
    """The document as its class reads it, or why it cannot be."""
    key = key_of(object_id)
    try:
        document = bson.decode(raw, _DECODED)
    except (BSONError, OverflowError, ValueError) as error:
        return Item(key, raw, refusal=f"_id: expected a document that can be read, got {str(error)[:200]}")
    if not isinstance(object_id, ObjectId):
        # Its text may be another document's ObjectId, and the mirror would write it back as one.
        return Item(key, raw, refusal=f"_id: expected an ObjectId, got a {type(object_id).__name__}")
    unknown = tuple(unknown_fields(kind, document))
    try:
        return Item(key, raw, document=read(kind, document), unknown=unknown)
    except Unmappable as error:
        return Item(key, raw, refusal=str(error), unknown=unknown)
