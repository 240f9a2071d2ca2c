"""Rounds over all collections by the time of their documents, where MongoDB offers no stream of changes."""

from datetime import datetime
from typing import Any

from pymongo.database import Database

from custody.mirror.backfill.reading import Item
from custody.mirror.collections import COLLECTIONS
from custody.mirror.following import positions
from custody.mirror.following.changes import of_items
from custody.mirror.following.committing import Writer, odd_keys, report_odd
from custody.mirror.following.positions import EVERYTHING, Counted, Position
from custody.mirror.following.scanning import ROUND_OVERLAP, Page, read_changed, server_time
from custody.store.engine import transaction
from custody.store.mongo import Document


class Rounds:
    """Reads what changed since the last round, and what was read within ROUND_OVERLAP only where it is another than then."""

    def __init__(self, database: Database[Document], writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._seen: dict[str, dict[str, tuple[datetime, int]]] = {}

    def forget(self) -> None:
        """Read everything of the overlap once more."""
        self._seen.clear()

    def run(self, position: Position) -> Position:
        """One round. Returns the database's row as it is then."""
        began = self._writer.now()
        clock = server_time(self._database)
        with transaction(self._writer.engine) as connection:
            rows = {each.name: each for each in positions.everywhere(connection)}
            for name in COLLECTIONS.keys() - rows.keys():
                positions.put(
                    connection, name, "scan", {"at": rows[EVERYTHING].followed_to}, rows[EVERYTHING].followed_to
                )
        for name in COLLECTIONS:
            if name in rows:
                self._collection(rows[name], clock)
        with transaction(self._writer.engine) as connection:
            return positions.move(
                connection, position, token=None, followed_to=began, caught_up=True, counted=Counted()
            )

    def _collection(self, row: Position, clock: datetime) -> None:
        since: datetime = row.token["at"] - ROUND_OVERLAP
        seen = self._seen.setdefault(row.name, {})
        after: tuple[datetime, Any] | None = None
        is_last = False
        while not is_last:
            read_at = self._writer.now()
            page = read_changed(self._database, COLLECTIONS[row.name], since, after)
            after, is_last = page.last, page.is_last
            new = [each for each in page.items if seen.get(each.key, (None, 0))[1] != hash(each.raw)]
            if not new:
                continue
            # A time to come is no place to go on from: what is written until then would be passed over.
            at = row.token["at"] if after is None else max(row.token["at"], min(after[0], clock))
            row = self._commit(row, new, page, read_at, at)
            for each in new:
                if (written := page.written_at.get(each.key)) is not None:
                    seen[each.key] = (written, hash(each.raw))
        oldest = row.token["at"] - ROUND_OVERLAP
        self._seen[row.name] = {key: each for key, each in seen.items() if each[0] >= oldest}

    def _commit(self, row: Position, new: list[Item], page: Page, read_at: datetime, at: datetime) -> Position:
        def settle(connection: Any, made: Counted) -> Position:
            report_odd(connection, row.name, odd_keys([each.key for each in new]))
            return positions.move(connection, row, token={"at": at}, followed_to=at, caught_up=True, counted=made)

        part = [(row.name, of_items(new, page.written_at))]
        moved, _ = self._writer.commit(part, read_at, Counted(by_backend=len(new)), settle)
        assert moved is not None
        return moved
