"""What a backfill would meet: every document is read as it would be, and its references are looked up; nothing is written."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from bson import ObjectId
from pymongo.database import Database
from sqlalchemy import Engine

from custody.mirror.backfill.progress import Progress
from custody.mirror.backfill.reading import Item, changed_since, read_batch
from custody.mirror.backfill.references import Resolver
from custody.mirror.backfill.running import chosen_of, owning
from custody.mirror.backfill.targets import Target, target_of
from custody.mirror.collections.document import references_of
from custody.store.mongo import Document

REASONS_MAXIMUM: Final = 20
"""Reasons that a check keeps of each collection, so that a whole collection of bad documents takes no memory."""


@dataclass(slots=True)
class Checked:
    """A collection's documents, those that would be gaps with some of the reasons, and the fields that no mapping knows."""

    collection: str
    seen: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list[str])
    unknown: Counter[str] = field(default_factory=Counter[str])


def check(
    engine: Engine,
    database: Database[Document],
    *,
    collections: Sequence[str] = (),
    since: datetime | None = None,
    batch: int,
    said: Callable[[Progress], None] = lambda _: None,
) -> list[Checked]:
    """Read every document and look up what it refers to, in Postgres and in MongoDB. Raises BackfillRefused, PyMongoError.

    What Postgres itself would refuse, such as two users with one address, is not found.
    """
    return [_check(engine, database, target_of(name), since, batch, said) for name in chosen_of(collections)]


def _check(
    engine: Engine,
    database: Database[Document],
    target: Target,
    since: datetime | None,
    size: int,
    said: Callable[[Progress], None],
) -> Checked:
    checked = Checked(target.collection)
    after: Any = None
    is_last = False
    while not is_last:
        batch = read_batch(database, target.kind, after=after, condition=changed_since(since), limit=size)
        after, is_last = batch.last_id, batch.is_last
        checked.seen += len(batch.items)
        for item, reason in _refusals(engine, database, batch.items):
            checked.refused += 1
            if len(checked.reasons) < REASONS_MAXIMUM:
                checked.reasons.append(f"{item.key}: {reason}")
        checked.unknown.update(name for item in batch.items for name in item.unknown)
        said(Progress(target.collection, "documents", since, seen=checked.seen, refused=checked.refused))
    return checked


def _refusals(engine: Engine, database: Database[Document], items: Iterable[Item]) -> list[tuple[Item, str]]:
    found = [(item, item.refusal) for item in items if item.refusal is not None]
    readable = [(item, item.document) for item in items if item.document is not None]
    wanted: dict[str, set[ObjectId]] = {}
    for _, document in readable:
        for collection, object_id in references_of(document):
            wanted.setdefault(collection, set()).add(object_id)
    there = {
        (collection, each["_id"])
        for collection, ids in wanted.items()
        for each in database[collection].find({"_id": {"$in": sorted(ids)}}, projection=["_id"])
    }
    resolver = Resolver()
    with owning(engine) as connection:
        resolver.learn(
            connection,
            ((name, object_id) for name, ids in wanted.items() for object_id in ids if (name, object_id) not in there),
        )
    for item, document in readable:
        for reference in references_of(document):
            if reference not in there and resolver.uuid(*reference) is None:
                found.append((item, f"{reference[0]} {reference[1]} is in neither store"))
                break
    return found
