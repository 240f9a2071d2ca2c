"""One round of the mirror: claim and read (Postgres), write (MongoDB), settle (Postgres). Never both at once (L15)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import DecimalException
from typing import Any, Final
from uuid import UUID

import bson
import structlog
from bson.errors import BSONError
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError, WriteError
from sqlalchemy import Connection, Engine

from custody.mirror.claims import Claimed, claim, finish, give_up, put_off
from custody.mirror.documents import SUBJECTS, Write
from custody.mirror.identities import NoObjectId
from custody.mirror.restoring import due, restoring
from custody.mirror.restoring import written as restored
from custody.store.engine import forbid_inside_transaction, transaction
from custody.store.mongo import Document, is_away
from custody.store.outbox import ask_for_entries

log = structlog.get_logger(__name__)

DOCUMENT_BYTES_MAXIMUM: Final = 1_048_576  # ours take a few kilobytes; MongoDB's own limit is 16 MiB

DUPLICATE_KEY: Final = 11000
PATH_NOT_VIABLE: Final = 28
"""What MongoDB answers to a field of something that is no document."""


@dataclass(slots=True)
class Job:
    """A claimed document with its write, and what became of it."""

    claimed: Claimed
    write: Write | None = None
    refused: str | None = None
    written: bool = False
    restorations: list[UUID] = field(default_factory=list[UUID])
    """Actions of two persons that this write is for."""


def run_once(engine: Engine, database: Database[Document], limit: int) -> int:
    """Bring at most ``limit`` due rows' documents to MongoDB. Returns how many rows were settled.

    MongoDB away: 0, and the rows stay, each due again after a growing wait. A document that MongoDB refuses becomes a
    gap row and dead work. Correct with any number of mirrors at once.
    """
    if not _is_there(database):
        return 0
    # The relay asks for entries as well, and sooner; without it they would wait here for it.
    with transaction(engine) as connection:
        ask_for_entries(connection, limit)
    with transaction(engine) as connection:
        claims, version = claim(connection, limit)
        jobs = _read(connection, claims)
    if not jobs:
        return 0
    try:
        _write(database, jobs, version)
    except PyMongoError as error:
        if not is_away(error):
            raise
        log.warning("mirror_waits", error=type(error).__name__, unblocks="see whether MongoDB has a primary")
        with transaction(engine) as connection:
            _settle(connection, jobs, away=f"MongoDB was away: {type(error).__name__}")
    else:
        with transaction(engine) as connection:
            _settle(connection, jobs, away="MongoDB did not say what became of it")
    return sum(len(job.claimed.row_ids) for job in jobs if job.written or job.refused)


def _is_there(database: Database[Document]) -> bool:
    """Asked before anything is claimed: rows that nobody tried are due at once when MongoDB is back."""
    forbid_inside_transaction("MongoDB")
    try:
        database.client.admin.command("ping")
    except PyMongoError as error:
        if not is_away(error):
            raise
        log.warning("mirror_waits", error=type(error).__name__, unblocks="see whether MongoDB has a primary")
        return False
    return True


def _read(connection: Connection, claims: list[Claimed]) -> list[Job]:
    jobs = [Job(claimed) for claimed in claims]
    for collection in sorted({claimed.collection for claimed in claims}):
        mine = {job.claimed.document_id: job for job in jobs if job.claimed.collection == collection}
        subject = SUBJECTS.get(collection)
        if subject is None:
            for job in mine.values():
                job.refused = f"no collection {collection!r} is mirrored; expected {', '.join(SUBJECTS)}"
            continue
        rows, identities = subject.read(connection, sorted(mine))
        again = due(connection, collection, sorted(mine))
        for row in rows:
            job = mine.pop(row.id)
            try:
                job.write = subject.write(row, identities)
                if row.id in again:
                    job.write, job.restorations = restoring(collection, job.write), again[row.id]
            except (NoObjectId, DecimalException, ValueError) as error:
                job.refused = f"{type(error).__name__}: {error}"
        for job in mine.values():
            job.refused = "the row is no longer in Postgres"
    return jobs


def _write(database: Database[Document], jobs: list[Job], version: int) -> None:
    forbid_inside_transaction("MongoDB")
    for name in sorted({job.claimed.collection for job in jobs}):
        mine = [job for job in jobs if job.claimed.collection == name and job.write is not None]
        sent = [job for job in mine if _encodable(job, version)]
        if sent:
            _write_collection(database, SUBJECTS[name].into or name, sent, version)


def _encodable(job: Job, version: int) -> bool:
    """One document that BSON cannot hold would stop its whole batch before it is sent."""
    assert job.write is not None
    try:
        size = len(bson.encode(job.write.update(version)))
    except (BSONError, OverflowError, ValueError) as error:
        job.refused = f"it is no BSON document: {error}"
        return False
    if size > DOCUMENT_BYTES_MAXIMUM:
        job.refused = f"it takes {size} bytes, more than {DOCUMENT_BYTES_MAXIMUM}"
        return False
    return True


def _write_collection(database: Database[Document], name: str, jobs: list[Job], version: int) -> None:
    collection = database[name]
    operations = [_operation(job.write, version) for job in jobs if job.write is not None]
    failed: dict[int, dict[str, Any]] = {}
    try:
        collection.bulk_write(operations, ordered=False)
    except BulkWriteError as error:
        details: dict[str, Any] = dict(error.details or {})
        failed = {int(item["index"]): item for item in details.get("writeErrors", [])}
        if details.get("writeConcernErrors"):
            log.warning("mirror_waits", error="WriteConcernError", unblocks="see the replica set's members")
            return  # written perhaps, and not on a majority: all of it again, it is idempotent
    for index, job in enumerate(jobs):
        if index in failed:
            _after_failure(database, name, job, version, failed[index])
        else:
            job.written = True
    _refuse_missing(database, name, [job for job in jobs if job.written and job.write and not job.write.creates])


def _operation(write: Write, version: int) -> UpdateOne:
    return UpdateOne(write.condition(version), write.update(version), upsert=write.creates)


def _after_failure(database: Database[Document], name: str, job: Job, version: int, failure: dict[str, Any]) -> None:
    """What is written again: after a duplicate _id, where the condition found a higher version (done) or another upsert won,
    and after a null where a nested document is expected, which older backends left and which has no fields to set.
    """
    assert job.write is not None
    is_repeat = failure.get("code") == DUPLICATE_KEY and dict(failure.get("keyPattern") or {"_id": 1}) == {"_id": 1}
    is_of_null = failure.get("code") == PATH_NOT_VIABLE
    if is_repeat or is_of_null:
        try:
            if is_of_null:
                _nulls_to_documents(database[name], job.write)
            database[name].update_one(job.write.condition(version), job.write.update(version))
        except (WriteError, DuplicateKeyError) as error:
            job.refused = _reason(error.details or {})
            return
        job.written = True
        return
    job.refused = _reason(failure)


def _nulls_to_documents(collection: Collection[Document], write: Write) -> None:
    for parent in write.parents():
        collection.update_one({"_id": write.object_id, parent: {"$type": "null"}}, {"$set": {parent: {}}})


def _reason(failure: Any) -> str:
    details: dict[str, Any] = dict(failure)
    message = str(details.get("errmsg", "no message")).split(" dup key:")[0]
    return f"MongoDB refused it ({details.get('code')}): {message}"


def _refuse_missing(database: Database[Document], name: str, jobs: list[Job]) -> None:
    """Documents that the fleet may change and not create: say so when one is not there."""
    if not jobs:
        return
    ids = [job.write.object_id for job in jobs if job.write is not None]
    there = {found["_id"] for found in database[name].find({"_id": {"$in": ids}}, {"_id": 1})}
    for job in jobs:
        if job.write is not None and job.write.object_id not in there:
            job.written = False
            job.refused = f"{name} has no document {job.write.object_id}, and the fleet creates none there"


def _settle(connection: Connection, jobs: Iterable[Job], *, away: str) -> None:
    waiting: list[Claimed] = []
    done: list[tuple[Claimed, str]] = []
    for job in jobs:
        object_id = str(job.write.object_id) if job.write else None
        if job.refused is not None:
            update = job.write.update(0) if job.write else {}
            give_up(connection, job.claimed, object_id=object_id, update=update, reason=job.refused)
            log.error("mirror_refused", collection=job.claimed.collection, document=str(job.claimed.document_id),
                      reason=job.refused)  # fmt: skip
        elif job.written and object_id is not None:
            done.append((job.claimed, object_id))
        else:
            waiting.append(job.claimed)
    finish(connection, done)
    restored(connection, [action for job in jobs if job.written and not job.refused for action in job.restorations])
    put_off(connection, waiting, away)
