"""The change stream of the whole database: which documents changed, in batches, each with the token to go on from.

An event is believed in one thing, the name of its document; what the document holds is read anew. So only the ends of events
are asked for, and one of any size fits.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.timestamp import Timestamp
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from custody.mirror.collections import COLLECTIONS
from custody.mirror.documents import VERSION_FIELD
from custody.store.engine import forbid_inside_transaction
from custody.store.mongo import Document

BATCH_EVENTS: Final = 500
"""Of one transaction at most: about a second of it at the rate that the fleet is built for, were it behind."""

AWAIT_MS: Final = (
    500  # an answer without events comes after this; a stop, or a document to look at again, waits no longer
)

UNAVAILABLE_CODES: Final = frozenset({40573, 40324, 13, 20, 8000})
"""No replica set, no such stage, no right to it."""

LOST_CODES: Final = frozenset({286, 280, 260, 136, 40615, 40576, 40585, 50811, 2, 9, 10334})
"""The place to go on from is gone from the log, or is none, or what follows it is larger than an answer may be."""

_CODEC: Final[CodecOptions[Document]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)


class StreamUnavailable(Exception):
    """This server offers no change stream. The message is what it says."""


class HistoryLost(Exception):
    """The stream cannot go on from its place. The message is what the server says."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. ``object_id``: None where it is about a whole collection, or the database. ``renamed_to``: a collection."""

    operation: str
    collection: str
    object_id: Any
    is_fleets: bool
    at: datetime
    renamed_to: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in their order. ``token`` is where the next batch begins, also when there are none."""

    events: tuple[Event, ...]
    token: Mapping[str, Any]
    cluster_time: Timestamp | None


def operation_time(database: Database[Document]) -> Timestamp:
    """The primary's present place in its log. Raises StreamUnavailable where it keeps none."""
    forbid_inside_transaction("MongoDB")
    found = database.client.admin.command("ping").get("operationTime")
    if not isinstance(found, Timestamp):
        raise StreamUnavailable("it is no replica set")
    return found


class Stream:
    """One open stream. It is never mended: whoever meets an error opens another where the last batch ended."""

    def __init__(self, database: Database[Document], start: Mapping[str, Any]) -> None:
        """``start``: ``resumeAfter`` or ``startAtOperationTime``, as MongoDB takes it. Raises what ``next`` raises."""
        self._database = database
        self._session: ClientSession = database.client.start_session(causal_consistency=False)
        self._cursor = 0
        self._collection = "$cmd.aggregate"
        try:
            reply = self._command(
                {
                    "aggregate": 1,
                    "pipeline": [{"$changeStream": dict(start)}, *_PIPELINE],
                    "cursor": {"batchSize": 0},
                    "readConcern": {"level": "majority"},
                }
            )
        except BaseException:
            self._session.end_session()
            raise
        self._cursor = int(reply["id"])
        self._collection = str(reply["ns"]).partition(".")[2]

    def next(self, limit: int = BATCH_EVENTS, await_ms: int = AWAIT_MS) -> Batch:
        """What happened since, as soon as there is anything; nothing after ``await_ms``.

        Raises HistoryLost, StreamUnavailable, and PyMongoError when MongoDB does not answer or has forgotten the stream.
        """
        reply = self._command(
            {
                "getMore": Int64(self._cursor),
                "collection": self._collection,
                "batchSize": limit,
                "maxTimeMS": await_ms,
            }
        )
        raw: Sequence[Document] = reply["nextBatch"]
        times = [each["clusterTime"] for each in raw if "clusterTime" in each]
        token = reply.get("postBatchResumeToken") or raw[-1]["_id"]
        # An invalidated stream has one event more, and then none for ever.
        return Batch(tuple(map(_event, raw)), token, times[-1] if times else None)

    def close(self) -> None:
        """End it on the server too, where that answers."""
        with contextlib.suppress(PyMongoError):
            self._database.command({"killCursors": self._collection, "cursors": [Int64(self._cursor)]})
        self._session.end_session()

    def _command(self, command: dict[str, Any]) -> Document:
        forbid_inside_transaction("MongoDB")
        try:
            reply: Document = self._database.command(command, session=self._session, codec_options=_CODEC)
        except OperationFailure as error:
            said = f"{error.code}: {str(error).partition(', full error')[0][:300]}"
            if error.code in LOST_CODES:
                raise HistoryLost(said) from None
            if error.code in UNAVAILABLE_CODES:
                raise StreamUnavailable(said) from None
            raise
        return reply["cursor"]


_NAMES: Final = sorted(COLLECTIONS)
_ABSENT: Final = "missing"
_PIPELINE: Final[Sequence[Mapping[str, Any]]] = (
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": _NAMES}},
                {"to.coll": {"$in": _NAMES}},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "ns": 1,
            "to": 1,
            "documentKey._id": 1,
            "clusterTime": 1,
            "wallTime": 1,
            # What the mirror writes says so; an entry, which it writes once, has its hash.
            "isFleets": {
                "$or": [
                    {"$ne": [{"$type": f"${place}"}, _ABSENT]}
                    for place in (
                        f"updateDescription.updatedFields.{VERSION_FIELD}",
                        f"fullDocument.{VERSION_FIELD}",
                        "fullDocument.entryHash",
                    )
                ]
            },
        }
    },
)


def _event(raw: Document) -> Event:
    at = raw.get("wallTime")
    if not isinstance(at, datetime):
        at = raw["clusterTime"].as_datetime() if "clusterTime" in raw else datetime.now(UTC)
    return Event(
        operation=str(raw["operationType"]),
        collection=str(raw.get("ns", {}).get("coll", "")),
        object_id=raw.get("documentKey", {}).get("_id"),
        is_fleets=bool(raw.get("isFleets")),
        at=at,
        renamed_to=raw.get("to", {}).get("coll"),
    )
