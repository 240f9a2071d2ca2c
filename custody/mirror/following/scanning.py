"""Documents by the time of their last change: what a stream missed, or where there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo.database import Database

from custody.mirror.backfill.reading import _RAW, BATCH_BYTES_MAXIMUM, Item, item_of, key_of
from custody.mirror.collections.document import Document
from custody.mirror.following.rights import time_field
from custody.store.engine import forbid_inside_transaction
from custody.store.mongo import Document as RawDocument

PAGE_DOCUMENTS: Final = 500  # of one transaction, as a stream's batch

OVERLAP: Final = timedelta(minutes=5)
"""Read once more after a break: the backend's clocks say when a document was changed, the fleet's when it was last followed."""

ROUND_OVERLAP: Final = timedelta(seconds=10)
"""Read once more in each round: a write is seen when it is on a majority's disks, some time after it says."""


@dataclass(frozen=True, slots=True)
class Page:
    """Documents in the order of (time, _id). ``written_at``: by key. ``last``: the last one's time and _id."""

    items: tuple[Item, ...]
    written_at: Mapping[str, datetime | None]
    last: tuple[datetime, Any] | None
    is_last: bool


def changed_since(kind: type[Document], since: datetime | None) -> dict[str, Any]:
    """The filter of documents that were changed since then; one whose time is no date is always among them."""
    if since is None:
        return {}
    name = time_field(kind)
    return {"$or": [{name: {"$gte": since}}, {name: {"$not": {"$type": "date"}}}]}


def server_time(database: Database[RawDocument]) -> datetime:
    """MongoDB's clock."""
    forbid_inside_transaction("MongoDB")
    found: datetime = database.client.admin.command("hello")["localTime"]
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_changed(
    database: Database[RawDocument],
    kind: type[Document],
    since: datetime,
    after: tuple[datetime, Any] | None,
    limit: int = PAGE_DOCUMENTS,
) -> Page:
    """The next documents changed since then, behind ``after``. One whose time is no date is not among them."""
    forbid_inside_transaction("MongoDB")
    name = time_field(kind)
    condition: dict[str, Any] = {name: {"$gte": since}}
    if after is not None:
        condition = {"$or": [{name: {"$gt": after[0]}}, {name: after[0], "_id": {"$gt": after[1]}}]}
    collection = database.with_options(codec_options=_RAW)[kind.collection]
    items: list[Item] = []
    written: dict[str, datetime | None] = {}
    last: tuple[datetime, Any] | None = after
    size = 0
    cursor = collection.find(condition).sort([(name, 1), ("_id", 1)]).limit(limit + 1).batch_size(limit + 1)
    with cursor:
        for document in cursor:
            raw = bytes(document.raw)
            if items and (len(items) == limit or size + len(raw) > BATCH_BYTES_MAXIMUM):
                return Page(tuple(items), written, last, is_last=False)
            object_id = document["_id"]
            items.append(item_of(kind, raw, object_id))
            size += len(raw)
            at = document[name]
            if isinstance(at, datetime):
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
                written[key_of(object_id)] = at
                last = (at, object_id)
    return Page(tuple(items), written, last, is_last=True)
