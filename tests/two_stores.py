"""The same documents in both stores: rows made by the mapping itself, their references known to id_map alone."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID, uuid5

from bson import Decimal128, ObjectId
from pymongo.database import Database as MongoDatabase
from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import DBAPIError

from custody.mirror.agreement import Outcome, said
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.document import read, to_rows

Mongo = MongoDatabase[dict[str, Any]]

Plant = Callable[["TwoStores", Mongo, dict[str, Any]], object]
"""Makes one difference in a document that both stores hold."""

_NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


class Numbered:
    """Every document has a row, whose UUID follows from its ObjectId; ``asked`` are those that were referred to."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, ObjectId], UUID] = {}

    def uuid(self, collection: str, object_id: ObjectId) -> UUID:
        return self.asked.setdefault((collection, object_id), uuid5(_NAMESPACE, f"{collection} {object_id}"))

    def object_id(self, collection: str, row_id: UUID) -> ObjectId | None:
        return next((known for (name, known), row in self.asked.items() if (name, row) == (collection, row_id)), None)


class TwoStores:
    """Puts documents into MongoDB and their rows into Postgres, as an administrator; references need no row."""

    def __init__(self, engine: Engine, mongo: Mongo) -> None:
        self.engine = engine
        self.mongo = mongo
        self.ids = Numbered()
        with engine.begin() as connection:
            # Totals follow from sweeps (ENABLE ALWAYS), which documents that others wrote do not care about.
            for table in ("derived_destinations", "derived_destination_sweeps"):
                connection.execute(text(f"ALTER TABLE public.{table} DISABLE TRIGGER USER"))

    def put(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Those that both stores take: the _ids. A row that a constraint of Postgres refuses goes into neither."""
        taken: list[Any] = []
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for document in documents:
                if self._insert(connection, collection, document):
                    self.mongo[collection].insert_one(dict(document))
                    taken.append(document["_id"])
            self._name(connection)
        return taken

    def row(self, collection: str, document: Mapping[str, Any]) -> None:
        """Its row alone."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            assert self._insert(connection, collection, document)
            self._name(connection)

    def execute(self, statement: str, **values: Any) -> list[Any]:
        """As an administrator, past every trigger and key."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def _insert(self, connection: Connection, collection: str, document: Mapping[str, Any]) -> bool:
        kind = COLLECTIONS[collection]
        rows = to_rows(read(kind, document), self.ids)
        row_id = self.ids.uuid(collection, read(kind, document).id)
        savepoint = connection.begin_nested()
        try:
            connection.execute(cast(Table, kind.table.__table__).insert().values({"id": row_id, **rows.columns}))
            for table, children in rows.children.items():
                field = next(mark for mark in _parents(kind) if mark[0] is table)[1]
                for child in children:
                    connection.execute(cast(Table, table.__table__).insert().values({field: row_id, **child}))
        except DBAPIError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def _name(self, connection: Connection) -> None:
        # A row of its own has its own legacy_object_id; id_map names the referred ones, which have no row here.
        connection.execute(
            text(
                "INSERT INTO public.id_map (collection, legacy_object_id, new_id) "
                "VALUES (:collection, :object_id, :id) ON CONFLICT DO NOTHING"
            ),
            [
                {"collection": name, "object_id": str(object_id), "id": row}
                for (name, object_id), row in self.ids.asked.items()
            ],
        )


def _parents(kind: Any) -> list[tuple[Any, str]]:
    from custody.mirror.collections.marks import Child
    from custody.mirror.collections.plan import mark_of

    return [
        (mark.table, mark.parent) for info in kind.model_fields.values() if (mark := mark_of(info, Child)) is not None
    ]


LONG_AGO: Final = datetime(2026, 1, 1, tzinfo=UTC)
USER, REQUEST, OFFER, ANOTHER = (ObjectId(f"65f0000000000000000000{number:02x}") for number in range(1, 5))


def payment(number: int, **changed: Any) -> dict[str, Any]:
    document = {
        "_id": ObjectId(f"65f1{number:020x}"), "purchaseRequestId": REQUEST, "sellerOfferId": OFFER, "buyerId": USER,
        "sellerId": USER, "amount": {"amount": Decimal128("12.5"), "currency": "USDT"}, "provider": "request.network",
        "direction": "in", "status": "processing", "blockchain": {"confirmations": 0}, "providerPaymentId": f"pp{number}",
        "metadata": {"note": "a"}, "createdAt": LONG_AGO, "updatedAt": LONG_AGO,
    }  # fmt: skip
    return {**document, **changed}


def request(number: int, **changed: Any) -> dict[str, Any]:
    document = {
        "_id": ObjectId(f"65f2{number:020x}"), "buyerId": USER, "title": "A lamp", "createdAt": LONG_AGO,
        "updatedAt": LONG_AGO, "specifications": [{"key": "colour", "value": "red"}, {"key": "height", "value": "1 m"}],
        "preferredSellerIds": [USER, ANOTHER], "deliveryInfo": {"method": "post"},
    }  # fmt: skip
    return {**document, **changed}


def in_mongo(update: dict[str, Any]) -> Plant:
    def plant(stores: TwoStores, mongo: Mongo, document: dict[str, Any]) -> None:
        collection = "payments" if "amount" in document else "purchaserequests"
        assert mongo[collection].update_one({"_id": document["_id"]}, update).modified_count == 1

    return plant


def one(outcomes: list[Outcome]) -> Outcome:
    (outcome,) = outcomes
    return outcome


def told(outcome: Outcome) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    return [
        (
            look.object_id,
            look.verdict.value,
            [(each.name, said(each.mongo), said(each.postgres)) for each in look.fields],
        )
        for look, _ in sorted(outcome.looks, key=lambda found: found[0].object_id)
    ]
