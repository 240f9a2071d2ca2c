"""ObjectIds to the UUIDs of rows: what a batch refers to, in one query."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final
from uuid import UUID

from bson import ObjectId
from sqlalchemy import Connection, TextClause, text

from custody.mirror.backfill.targets import target_of

REMEMBERED_MAXIMUM: Final = 100_000
"""References kept from one batch to the next: about 20 MB. The buyers and sellers of one batch are mostly those of the next."""


class Resolver:
    """The UUIDs of documents that have a row, by (collection, ObjectId)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ObjectId], UUID] = {}

    def uuid(self, collection: str, object_id: ObjectId) -> UUID | None:
        """The row of a document that ``learn`` was asked for; None where there is none."""
        return self._known.get((collection, object_id))

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        """Nothing: a backfill goes one way."""
        return None

    def forget(self) -> None:
        """After a rollback, or for rows that may be gone."""
        self._known.clear()

    def learn(self, connection: Connection, wanted: Iterable[tuple[str, ObjectId]]) -> None:
        """Look up what is not known yet, by the rows' legacy_object_id and by id_map."""
        missing: dict[str, set[str]] = {}
        for reference in wanted:
            if reference not in self._known:
                missing.setdefault(reference[0], set()).add(str(reference[1]))
        if not missing:
            return
        if len(self._known) > REMEMBERED_MAXIMUM:
            self._known.clear()
        self._known.update(
            ((row.collection, ObjectId(row.legacy_object_id)), row.id)
            for row in connection.execute(
                _lookup(tuple(sorted(missing))), {name: sorted(found) for name, found in missing.items()}
            )
        )


@cache
def _lookup(collections: tuple[str, ...]) -> TextClause:
    # id_map's rows come first and are overwritten by those whose own legacy_object_id says it.
    parts = [
        f"""
        SELECT '{name}' AS collection, m.legacy_object_id, t.id, 1 AS place
        FROM public.id_map m JOIN {target_of(name).table} t ON t.id = m.new_id
        WHERE m.collection = '{name}' AND m.legacy_object_id = ANY(CAST(:{name} AS text[]))
        UNION ALL
        SELECT '{name}', legacy_object_id, id, 2 FROM {target_of(name).table}
        WHERE legacy_object_id = ANY(CAST(:{name} AS text[]))
        """  # noqa: S608 - the names are those of COLLECTIONS
        for name in collections
    ]
    return text("\nUNION ALL\n".join(parts) + "\nORDER BY place")


@cache
def _rows_of(collection: str) -> TextClause:
    return text(
        f"""
        SELECT k.object_id, t.id AS own, m.new_id AS mapped, x.id AS mapped_row
        FROM unnest(CAST(:object_ids AS text[])) AS k(object_id)
        LEFT JOIN {target_of(collection).table} t ON t.legacy_object_id = k.object_id
        LEFT JOIN public.id_map m ON m.collection = '{collection}' AND m.legacy_object_id = k.object_id
        LEFT JOIN {target_of(collection).table} x ON x.id = m.new_id
        WHERE t.id IS NOT NULL OR m.new_id IS NOT NULL
        """  # noqa: S608 - the names are those of COLLECTIONS
    )


class Rows:
    """The rows that documents of one collection have: ``existing`` by legacy id, and what id_map says."""

    def __init__(self, connection: Connection, collection: str, object_ids: list[str]) -> None:
        self.existing: dict[str, UUID] = {}
        self.mapped: dict[str, UUID] = {}
        for row in connection.execute(_rows_of(collection), {"object_ids": object_ids}):
            found: UUID | None = row.own or row.mapped_row
            if found is not None:
                self.existing[row.object_id] = found
            if row.mapped is not None:
                self.mapped[row.object_id] = row.mapped

    def contradicts(self, object_id: str) -> str | None:
        """What is wrong where id_map and the row disagree."""
        row, mapped = self.existing.get(object_id), self.mapped.get(object_id)
        if row is None or mapped is None or row == mapped:
            return None
        return f"_id: expected the row {row} that has it, but id_map says {mapped}"


def existing_rows(connection: Connection, collection: str, object_ids: list[str]) -> Mapping[str, UUID]:
    """The rows of these documents, by the text of their ObjectId."""
    return Rows(connection, collection, object_ids).existing
