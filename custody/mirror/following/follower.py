"""Following MongoDB: by its change stream, by the time of its documents where there is none or the stream has lost its place.

Each batch of documents and the place behind it are one transaction: a follower that dies reads the batch again, which changes
nothing that stands already. Nothing here writes to the outbox, so what comes from MongoDB never goes back there.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import structlog
from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo.database import Database
from sqlalchemy import Connection, Engine, text

from custody.mirror.backfill.reading import key_of, read_batch
from custody.mirror.collections import COLLECTIONS
from custody.mirror.following import positions
from custody.mirror.following.changes import of_items, read_parts
from custody.mirror.following.committing import Part, Settle, Writer, close_odd, odd_keys, report_odd
from custody.mirror.following.positions import EVERYTHING, Counted, Overtaken, Position
from custody.mirror.following.removing import report_dropped
from custody.mirror.following.rounds import Rounds
from custody.mirror.following.scanning import OVERLAP, PAGE_DOCUMENTS, changed_since
from custody.mirror.following.stream import (
    AWAIT_MS,
    BATCH_EVENTS,
    Batch,
    Event,
    HistoryLost,
    Stream,
    StreamUnavailable,
    operation_time,
)
from custody.store.engine import transaction
from custody.store.mongo import Document

log = structlog.get_logger(__name__)

AT_ONCE_SECONDS: Final = 0.0
IDLE_SAVE_SECONDS: Final = 5.0  # without events the place is kept this often: an idle night loses no history
REVISIT_SECONDS: Final = 1.0  # how soon a document is looked at again when its time has come
REVISIT_SOON_SECONDS: Final = 0.02  # when one was just put off
REVISIT_MAXIMUM: Final = 100  # documents a look: the stream waits for them
SCAN_SECONDS: Final = 2.0  # between two rounds without a stream
STREAM_AGAIN_SECONDS: Final = 60.0  # a server without streams may become one with them
OVERTAKEN_SECONDS: Final = 5.0  # two followers take turns no faster than this

Seconds = float  # monotonic time, and how long to wait

_SINCE: Final = text(
    "SELECT collection, started_at FROM fleet.backfill_progress "
    "WHERE stage = 'documents' AND since IS NULL AND finished_at IS NOT NULL"
)
_NOW: Final = text("SELECT clock_timestamp()")


def _nothing() -> None: ...


class Follower:
    """One follower of one database. After any error ``reset``, and the next ``step`` goes on from what is committed."""

    def __init__(
        self,
        engine: Engine,
        database: Database[Document],
        *,
        await_ms: int = AWAIT_MS,
        batch_events: int = BATCH_EVENTS,
        alive: Callable[[], None] = _nothing,
    ) -> None:
        """``alive`` is called after each transaction."""
        self._database = database
        self._await_ms = await_ms
        self._batch_events = batch_events
        self._writer = Writer(engine, alive)
        self._rounds = Rounds(database, self._writer)
        self._position: Position | None = None
        self._stream: Stream | None = None
        self._revisit_at = AT_ONCE_SECONDS
        self._saved_at = AT_ONCE_SECONDS
        self._stream_again_at = AT_ONCE_SECONDS

    @property
    def position(self) -> Position | None:
        """Where it stands, as far as it knows."""
        return self._position

    def reset(self) -> None:
        """Forget everything that is not committed."""
        stream, self._stream = self._stream, None
        self._position = None
        self._writer.forget()
        self._rounds.forget()
        if stream is not None:
            stream.close()

    def step(self) -> Seconds:
        """Bring over what there is now, at most a batch of it. Returns the seconds that the caller may wait.

        Raises PyMongoError when MongoDB does not answer, DBAPIError or psycopg.Error when Postgres does not.
        """
        try:
            position = self._position or self._begin()
            if monotonic() >= self._revisit_at:
                self._revisit(position)
            if position.mode == "stream":
                return self._follow(position)
            return self._catch_up(position) if position.mode == "catching_up" else self._scan(position)
        except Overtaken as error:
            log.warning("another_follower_runs", error=str(error), unblocks="one is enough: stop the other")
            self.reset()
            return OVERTAKEN_SECONDS

    # Beginnings ------------------------------------------------------------------------------------------------------

    def _begin(self) -> Position:
        with transaction(self._writer.engine) as connection:
            self._writer.learn(connection)
            found = positions.read(connection, EVERYTHING)
            since = {row.collection: row.started_at for row in connection.execute(_SINCE)}
        if found is None:
            # What a backfill brought over is followed from its beginning; what none did, from now on.
            return self._begin_anew(since, None)
        log.info("mirror_following", mode=found.mode, followed_to=found.followed_to.isoformat())
        self._position = found
        self._writer.began = found.started_at
        return found

    def _begin_anew(self, since: dict[str, datetime], lost: str | None) -> Position:
        """Read what changed since then, in each of these collections, and then go on with a stream from now."""
        start: Timestamp | None = None
        reason = lost
        try:
            start = operation_time(self._database)
            self._require_majority(start)
        except StreamUnavailable as error:
            reason = f"no change stream: {error}"
        with transaction(self._writer.engine) as connection:
            now: datetime = connection.execute(_NOW).scalar_one()
            if start is None:
                self._put_scans(connection, since, now, reason)
            else:
                earliest = min(since.values(), default=now)
                token = {"startAtOperationTime": start}
                positions.put(connection, EVERYTHING, "catching_up", token, earliest, reason)
                for collection, at in since.items():
                    token = {"since": at, "after": None}
                    positions.put(connection, collection, "catching_up", token, at)
            found = positions.read(connection, EVERYTHING)
        assert found is not None
        log.info("mirror_following", mode=found.mode, reason=reason, collections=len(since))
        self._position = found
        self._writer.began = found.started_at
        return found

    def _put_scans(self, connection: Connection, since: dict[str, datetime], now: datetime, reason: str | None) -> None:
        positions.put(connection, EVERYTHING, "scan", None, min(since.values(), default=now), reason)
        for collection in COLLECTIONS:
            at = since.get(collection, now)
            positions.put(connection, collection, "scan", {"at": at}, at)
        self._stream_again_at = monotonic() + STREAM_AGAIN_SECONDS
        log.warning(
            "mirror_scans", reason=reason,
            unblocks="make MongoDB a replica set; until then deletions are found by fleet mirror verify alone",
        )  # fmt: skip

    def _require_majority(self, at: Timestamp) -> None:
        """Wait until a majority has what was written before ``at``: later reads of a majority then see all of it."""
        with self._database.client.start_session() as session:
            session.advance_operation_time(at)
            self._database["payments"].find_one({}, {"_id": 1}, session=session)

    def _everything_since(self, at: datetime) -> dict[str, datetime]:
        return dict.fromkeys(COLLECTIONS, at - OVERLAP)

    # By the stream ---------------------------------------------------------------------------------------------------

    def _follow(self, position: Position) -> Seconds:
        try:
            if self._stream is None:
                self._stream = Stream(self._database, position.token)
            asked_at = datetime.now(UTC)
            batch = self._stream.next(self._batch_events, self._await_ms)
        except HistoryLost as error:
            log.error("mirror_history_lost", error=str(error), since=position.followed_to.isoformat(),
                      unblocks="nothing: what changed since is read by its time, with 5 minutes more; deletions of that time are "
                      "found by fleet mirror verify; a larger oplog keeps longer breaks")  # fmt: skip
            self._close_stream()
            self._begin_anew(self._everything_since(position.followed_to), f"history lost: {error}")
            return AT_ONCE_SECONDS
        except StreamUnavailable as error:
            self._close_stream()
            with transaction(self._writer.engine) as connection:
                since = self._everything_since(position.followed_to)
                self._put_scans(connection, since, position.followed_to, f"no change stream: {error}")
            self._position = None
            return AT_ONCE_SECONDS
        if batch.events:
            self._take(position, batch)
        elif not position.caught_up or monotonic() - self._saved_at >= IDLE_SAVE_SECONDS:
            with transaction(self._writer.engine) as connection:
                token = {"resumeAfter": batch.token}
                self._position = positions.move(
                    connection, position, token=token, followed_to=asked_at, caught_up=True, counted=Counted()
                )
            self._saved_at = monotonic()
        self._writer.alive()
        return AT_ONCE_SECONDS

    def _take(self, position: Position, batch: Batch) -> None:
        wanted: dict[str, dict[ObjectId, datetime | None]] = {}
        odd: dict[str, list[str]] = {}
        odd_gone: dict[str, list[str]] = {}
        for event in batch.events:
            if isinstance(event.object_id, ObjectId) and event.collection in COLLECTIONS:
                wanted.setdefault(event.collection, {})[event.object_id] = event.at
            elif event.object_id is not None:
                ids = odd if event.operation != "delete" else odd_gone
                ids.setdefault(event.collection, []).append(key_of(event.object_id))
        read_at = self._writer.now()
        counted = Counted(by_fleet=sum(each.is_fleets for each in batch.events))
        counted.by_backend = len(batch.events) - counted.by_fleet
        before: Part | None = None
        for part in read_parts(self._database, wanted, batch.cluster_time):
            if before is not None:
                self._commit(before, read_at, counted, None)
            before = part

        def settle(connection: Connection, made: Counted) -> Position:
            for collection, ids in odd.items():
                report_odd(connection, collection, ids)
            for collection, ids in odd_gone.items():
                close_odd(connection, collection, ids)
            whole = self._whole_collections(connection, batch.events)
            is_invalid = batch.events[-1].operation == "invalidate"
            token = {"startAfter" if is_invalid else "resumeAfter": batch.token}
            return positions.move(
                connection, position, token=token, followed_to=batch.events[-1].at, caught_up=False, counted=made,
                mode="catching_up" if whole else None,
            )  # fmt: skip

        moved = self._commit(before or [], read_at, counted, settle)
        assert moved is not None
        self._position = moved
        self._saved_at = monotonic()
        if batch.events[-1].operation == "invalidate" or moved.mode != "stream":
            self._close_stream()

    def _whole_collections(self, connection: Connection, events: Sequence[Event]) -> list[str]:
        """Report collections that went; those that came whole are read from their first document."""
        came: list[str] = []
        for event in events:
            if event.operation in ("drop", "rename") and event.collection in COLLECTIONS:
                report_dropped(connection, event.collection, event.operation, event.at)
            if event.operation == "rename" and event.renamed_to is not None and event.renamed_to in COLLECTIONS:
                report_dropped(connection, event.renamed_to, "another was renamed to its name", event.at)
                positions.put(
                    connection, event.renamed_to, "catching_up", {"since": None, "after": None}, event.at, "renamed"
                )
                came.append(event.renamed_to)
            if event.operation in ("dropDatabase", "invalidate"):
                log.error("mirror_database_gone", what=event.operation,
                          unblocks="bring MongoDB's database back; rows stay, and fleet mirror verify names them")  # fmt: skip
        return came

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # By the time of documents ------------------------------------------------------------------------------------------

    def _catch_up(self, position: Position) -> Seconds:
        """The next documents of the first collection that has some left; the stream, when none has."""
        with transaction(self._writer.engine) as connection:
            rows = {each.name: each for each in positions.everywhere(connection)}
            left = [
                rows[name]
                for name in COLLECTIONS
                if name in rows and rows[name].mode == "catching_up" and not rows[name].caught_up
            ]
            if not left:
                self._position = positions.move(
                    connection, position, token=position.token, followed_to=position.followed_to, caught_up=False,
                    counted=Counted(), mode="stream",
                )  # fmt: skip
                log.info("mirror_caught_up")
                return AT_ONCE_SECONDS
        row = left[0]
        kind = COLLECTIONS[row.name]
        read_at = self._writer.now()
        batch = read_batch(
            self._database, kind, after=row.token["after"], condition=changed_since(kind, row.token["since"]),
            limit=PAGE_DOCUMENTS,
        )  # fmt: skip
        part = [(row.name, of_items(batch.items, {}))]
        counted = Counted(by_backend=len(batch.items))

        def settle(connection: Connection, made: Counted) -> Position:
            report_odd(connection, row.name, odd_keys([each.key for each in batch.items]))
            token = {"since": row.token["since"], "after": batch.last_id}
            return positions.move(
                connection, row, token=token, followed_to=row.followed_to, caught_up=batch.is_last, counted=made
            )

        self._commit(part, read_at, counted, settle)
        return AT_ONCE_SECONDS

    def _scan(self, position: Position) -> Seconds:
        """One round over all collections; a stream, once the server has one."""
        if monotonic() >= self._stream_again_at and self._has_stream():
            self._begin_anew(self._everything_since(position.followed_to), None)
            return AT_ONCE_SECONDS
        self._position = self._rounds.run(position)
        return SCAN_SECONDS

    def _has_stream(self) -> bool:
        self._stream_again_at = monotonic() + STREAM_AGAIN_SECONDS
        try:
            Stream(self._database, {"startAtOperationTime": operation_time(self._database)}).close()
        except (StreamUnavailable, HistoryLost):
            return False
        return True

    # Documents that are looked at again ----------------------------------------------------------------------------------

    def _revisit(self, position: Position) -> None:
        with transaction(self._writer.engine) as connection:
            due = positions.due(connection, REVISIT_MAXIMUM)
        self._revisit_at = monotonic() + REVISIT_SECONDS
        if not due:
            return
        wanted: dict[str, dict[ObjectId, datetime | None]] = {}
        for row in due:
            wanted.setdefault(row.collection, {})[ObjectId(row.object_id)] = row.written_at
        read_at = self._writer.now()
        not_before = None if position.mode == "scan" else operation_time(self._database)
        for part in read_parts(self._database, wanted, not_before):
            self._commit(part, read_at, Counted(), None)
        if len(due) == REVISIT_MAXIMUM:
            self._revisit_at = AT_ONCE_SECONDS

    def _commit(self, part: Part, read_at: datetime, counted: Counted, settle: Settle | None) -> Position | None:
        moved, outcome = self._writer.commit(part, read_at, counted, settle)
        if outcome.waits:
            self._revisit_at = min(self._revisit_at, monotonic() + REVISIT_SOON_SECONDS)
        return moved
