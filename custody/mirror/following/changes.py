"""Documents that may have changed, as they are now: what events and scans come down to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo.database import Database

from custody.mirror.backfill.reading import BATCH_BYTES_MAXIMUM, Item, key_of, read_chosen
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import Document as Typed
from custody.store.mongo import Document

READ_MAXIMUM: Final = 200  # documents of one collection that are asked for at once

Wanted = Mapping[str, Mapping[ObjectId, datetime | None]]
"""By collection: the _ids to read, each with when it was last written, where that is known."""


@dataclass(frozen=True, slots=True)
class Change:
    """A document that may have changed, as MongoDB has it. ``item``: None where there is none any more."""

    object_id: ObjectId
    item: Item | None
    written_at: datetime | None = None

    @property
    def key(self) -> str:
        return key_of(self.object_id)

    @property
    def document(self) -> Typed | None:
        return None if self.item is None else self.item.document


def read_parts(
    database: Database[Document], wanted: Wanted, not_before: Timestamp | None
) -> Iterator[list[tuple[str, list[Change]]]]:
    """These documents in parts of at most BATCH_BYTES_MAXIMUM, those that are referred to first. At least one part.

    Each is read from a majority as it is now, and no older than ``not_before``: a primary that was just elected may know less
    than the event that named the document. Raises PyMongoError.
    """
    part: list[tuple[str, list[Change]]] = []
    size = 0
    with database.client.start_session() as session:
        if not_before is not None:
            session.advance_operation_time(not_before)
        for collection in COLLECTIONS:
            times = wanted.get(collection, {})
            ids = list(times)
            for start in range(0, len(ids), READ_MAXIMUM):
                missing = dict.fromkeys(ids[start : start + READ_MAXIMUM])
                changes: list[Change] = []
                for object_id, item in read_chosen(database, COLLECTIONS[collection], list(missing), session):
                    missing.pop(object_id, None)
                    changes.append(Change(object_id, item, times.get(object_id)))
                    size += len(item.raw)
                    if size > BATCH_BYTES_MAXIMUM:
                        yield [*part, (collection, changes)]
                        part, changes, size = [], [], 0
                changes += [Change(object_id, None, times[object_id]) for object_id in missing]
                if changes:
                    part.append((collection, changes))
    yield part


def of_items(items: Sequence[Item], written_at: Mapping[str, datetime | None]) -> list[Change]:
    """Documents that a scan has read; those without an ObjectId are left out."""
    return [Change(ObjectId(item.key), item, written_at.get(item.key)) for item in items if ObjectId.is_valid(item.key)]
