"""Which ObjectId a Postgres row has in MongoDB: its legacy_object_id, or one that id_map gave it.

Rows born in Postgres get an ObjectId once, recorded in public.id_map (the ledger's rows cannot be updated).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from bson import ObjectId
from sqlalchemy import Connection, text

TABLES: Final[Mapping[str, str]] = {
    "payments": "public.payments",
    "fundsledgerentries": "public.funds_ledger_entries",
    "deriveddestinations": "public.derived_destinations",
    "purchaserequests": "public.purchase_requests",
    "selleroffers": "public.seller_offers",
    "users": "public.users",
    "trezoraccounts": "public.trezor_accounts",
}
"""MongoDB collection of each table, as mongoose names it; also ``id_map.collection``."""

_KNOWN: Final = {
    collection: text(
        f"""
        SELECT t.id, t.legacy_object_id, m.legacy_object_id AS mapped
        FROM {table} t LEFT JOIN public.id_map m ON m.new_id = t.id AND m.collection = :collection
        WHERE t.id = ANY(:ids)
        """  # noqa: S608 - the names are the constants above
    )
    for collection, table in TABLES.items()
}
_RECORD = text(
    "INSERT INTO public.id_map (collection, legacy_object_id, new_id) VALUES (:collection, :object_id, :id) "
    "ON CONFLICT DO NOTHING"
)
_MAPPED = text(
    "SELECT new_id, legacy_object_id FROM public.id_map WHERE collection = :collection AND new_id = ANY(:ids)"
)


class NoObjectId(Exception):
    """A row's stored id is no ObjectId, so its document cannot be named. The message says which row and what it has."""


@dataclass(slots=True)
class Identities:
    """The ObjectIds of one batch, by (collection, id)."""

    _stored: dict[tuple[str, UUID], str] = field(default_factory=dict[tuple[str, UUID], str])

    def of(self, collection: str, row_id: UUID) -> ObjectId:
        """The ObjectId of a row that was asked for in ``resolve``. Raises NoObjectId."""
        stored = self._stored.get((collection, row_id), "none")
        if not ObjectId.is_valid(stored):
            raise NoObjectId(f"{collection} {row_id}: legacy_object_id is {stored!r}, expected 24 hex digits")
        return ObjectId(stored)

    def resolve(self, connection: Connection, collection: str, ids: Iterable[UUID | None]) -> None:
        """Learn the ObjectIds of these rows; a row that has none gets one, recorded in id_map by this transaction."""
        wanted = sorted({row_id for row_id in ids if row_id} - {i for c, i in self._stored if c == collection})
        if not wanted:
            return
        new: dict[UUID, str] = {}
        for row in connection.execute(_KNOWN[collection], {"ids": wanted, "collection": collection}):
            stored: str | None = row.legacy_object_id or row.mapped
            if row.mapped is None:
                new[row.id] = stored or str(ObjectId())
            if stored is not None:
                self._stored[(collection, row.id)] = stored
        if not new:
            return
        connection.execute(
            _RECORD,
            [{"collection": collection, "object_id": object_id, "id": row_id} for row_id, object_id in new.items()],
        )
        # Another mirror may have recorded one first: what stands in id_map counts.
        missing = [row_id for row_id in new if (collection, row_id) not in self._stored]
        for row in connection.execute(_MAPPED, {"collection": collection, "ids": missing}):
            self._stored[(collection, row.new_id)] = row.legacy_object_id
