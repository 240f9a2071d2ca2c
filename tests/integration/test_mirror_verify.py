"""Both stores compared: equal ones are equal, whatever writers left there; each planted difference is found and named."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings

from custody.mirror.agreement import verify
from custody.mirror.agreement.digests import Range, digest_documents, digest_rows
from custody.mirror.agreement.reading import reading
from custody.mirror.agreement.verifying import readable_plans
from custody.mirror.collections import COLLECTIONS
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from custody.store.outbox import mirror as ask_mirror
from tests.conftest import Database
from tests.counts import Counts, declared, sampled
from tests.property.test_collections import documents
from tests.two_stores import ANOTHER, OFFER, USER, Mongo, TwoStores, in_mongo, one, payment, request, told
from workers.embedded.services import Services

LARGE: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
GENERATED: Final = declared(400, 12)


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-verify") as client:
        yield client[mongo_database]


@pytest.fixture
def stores(database: Database, mongo: Mongo) -> TwoStores:
    return TwoStores(database.engine(), mongo)


def generated(collection: str, count: int) -> list[dict[str, Any]]:
    """Documents as any writer may have left them, the same in every run."""
    made: list[dict[str, Any]] = []

    @settings(max_examples=count, database=None, deadline=None, derandomize=True, suppress_health_check=LARGE)
    @given(document=documents(COLLECTIONS[collection]))
    def gather(document: dict[str, Any]) -> None:
        made.append(document)

    gather()
    return list({document["_id"]: document for document in made}.values())


@pytest.mark.parametrize("collection", sampled(COLLECTIONS))
def test_equal_stores_are_equal(
    collection: str, database: Database, stores: TwoStores, mongo: Mongo, counts: Counts
) -> None:
    put = stores.put(collection, generated(collection, GENERATED))
    assert put
    outcome = one(verify(database.engine(), mongo, [collection]))
    assert [(look.object_id, look.reason, look.fields) for look, _ in outcome.looks] == []
    assert (outcome.counted.documents, outcome.counted.rows, outcome.counted.equal) == (len(put),) * 3
    assert outcome.is_equal
    assert outcome.is_snapshot
    assert outcome.left_out == ()
    # Few are looked at whole: the digests of the others agree as they are.
    with reading(database.engine()) as connection:
        plan = readable_plans(connection)[collection]
        rows = digest_rows(connection, plan, Range())
    found = digest_documents(mongo, plan, Range())
    assert found.blob == rows.blob
    assert not found.odd
    counts(f"documents of {collection} in both stores", len(put))


# Planted differences ----------------------------------------------------------------------------------------------

Planted = tuple[str, Callable[[TwoStores, Mongo, dict[str, Any]], object], list[tuple[str, str, str]]]


def in_postgres(statement: str) -> Callable[[TwoStores, Mongo, dict[str, Any]], object]:
    return lambda stores, _, document: stores.execute(statement, id=str(document["_id"]))


def of(table: str, change: str) -> Callable[[TwoStores, Mongo, dict[str, Any]], object]:
    return in_postgres(f"UPDATE public.{table} SET {change} WHERE legacy_object_id = :id")


def of_child(statement: str) -> Callable[[TwoStores, Mongo, dict[str, Any]], object]:
    return in_postgres(statement + " = (SELECT id FROM public.purchase_requests WHERE legacy_object_id = :id)")


PLANTED: Final[dict[str, Planted]] = {
    "a value": ("payments", of("payments", "status = 'pending'"), [("status", '"processing"', '"pending"')]),
    "money by the least there is": (
        "payments",
        of("payments", "amount = 12.500000000000000001"),
        [("amount.amount", '{"$numberDecimal": "12.5"}', '{"$numberDecimal": "12.500000000000000001"}')],
    ),
    "NULL against 0": (
        "payments",
        of("payments", "confirmations = NULL"),
        [("blockchain.confirmations", "0", "nothing")],
    ),
    "0 against nothing": (
        "payments",
        in_mongo({"$unset": {"blockchain": ""}}),
        [("blockchain.confirmations", "nothing", "0")],
    ),
    "an empty text against none": (
        "payments",
        of("payments", "payment_reference = ''"),
        [("paymentReference", "nothing", '""')],
    ),
    "a reference to another row": (
        "payments",
        in_mongo({"$set": {"buyerId": ANOTHER}}),
        [("buyerId", f'{{"$oid": "{ANOTHER}"}}', f'{{"$oid": "{USER}"}}')],
    ),
    "a template for an entity": (
        "payments",
        in_mongo({"$set": {"sellerOfferId": "template-tc-1"}}),
        [("sellerOfferId", '"template-tc-1"', f'{{"$oid": "{OFFER}"}}')],
    ),
    "deep in what is kept whole": (
        "payments",
        in_mongo({"$set": {"metadata.deep": [{"is": True}]}}),
        [("metadata", '{"deep": [{"is": true}], "note": "a"}', '{"note": "a"}')],
    ),
    "one millisecond": (
        "payments",
        of("payments", "created_at = created_at + interval '1 millisecond'"),
        [("createdAt", '{"$date": "2026-01-01T00:00:00Z"}', '{"$date": "2026-01-01T00:00:00.001Z"}')],
    ),
    "a missing child": (
        "purchaserequests",
        of_child("DELETE FROM public.purchase_request_specifications WHERE ordinal = 1 AND purchase_request_id"),
        [
            (
                "specifications",
                '[{"key": "colour", "value": "red"}, {"key": "height", "value": "1 m"}]',
                '[{"key": "colour", "value": "red"}]',
            )
        ],
    ),
    "children in another order": (
        "purchaserequests",
        of_child("UPDATE public.purchase_request_specifications SET ordinal = 1 - ordinal WHERE purchase_request_id"),
        [
            (
                "specifications",
                '[{"key": "colour", "value": "red"}, {"key": "height", "value": "1 m"}]',
                '[{"key": "height", "value": "1 m"}, {"key": "colour", "value": "red"}]',
            )
        ],
    ),
    "an only child": (
        "purchaserequests",
        of_child("UPDATE public.purchase_request_delivery_info SET method = 'bike' WHERE purchase_request_id"),
        [("deliveryInfo", '{"method": "post"}', '{"method": "bike"}')],
    ),
    "one of a set": (
        "purchaserequests",
        in_mongo({"$pull": {"preferredSellerIds": ANOTHER}}),
        [("preferredSellerIds", f'[{{"$oid": "{USER}"}}]', f'[{{"$oid": "{USER}"}}, {{"$oid": "{ANOTHER}"}}]')],
    ),
}


@pytest.mark.parametrize("case", sampled(PLANTED))
def test_a_planted_difference_is_found_and_named(
    case: str, database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    collection, plant, expected = PLANTED[case]
    make = payment if collection == "payments" else request
    made = [make(number) for number in range(1, 6)]
    assert len(stores.put(collection, made)) == 5
    plant(stores, mongo, made[2])
    outcome = one(verify(database.engine(), mongo, [collection]))
    assert told(outcome) == [(str(made[2]["_id"]), "fields differ", expected)]
    counted = outcome.counted
    assert (counted.documents, counted.rows, counted.equal, counted.different) == (5, 5, 4, 1)


def test_a_missing_document_an_extra_row_and_what_cannot_be_read_are_told_apart(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    made = [payment(number) for number in range(1, 7)]
    stores.put("payments", made[:4])
    mongo["payments"].insert_one(made[4])
    stores.row("payments", made[5])
    mongo["payments"].update_one({"_id": made[0]["_id"]}, {"$set": {"amount.amount": "12,5"}})
    mongo["payments"].insert_one({**payment(9), "_id": "not an id"})
    stores.execute(
        "UPDATE public.payments SET legacy_object_id = 'none' WHERE legacy_object_id = :id", id=str(made[1]["_id"])
    )
    outcome = one(verify(database.engine(), mongo, ["payments"]))
    found = {look.object_id: (look.verdict.value, look.reason) for look, _ in outcome.looks}
    row = stores.ids.uuid("payments", made[1]["_id"])
    assert found == {
        str(made[0]["_id"]): ("unreadable", "MongoDB: amount.amount: expected a decimal number, got '12,5'"),
        "not an id": ("unreadable", "MongoDB: _id: expected an ObjectId, got 'not an id'"),
        str(made[1]["_id"]): ("no row", "Postgres has no row of it"),
        str(row): ("no document", f"row {row}: its ObjectId is 'none', expected 24 hex digits in small letters"),
        str(made[4]["_id"]): ("no row", "Postgres has no row of it"),
        str(made[5]["_id"]): ("no document", "MongoDB has no document of this row"),
    }
    counted = outcome.counted
    assert (counted.documents, counted.rows, counted.equal) == (6, 5, 2)
    assert (counted.different, counted.unreadable, counted.waiting) == (4, 2, 0)


def test_what_is_being_changed_waits_until_it_has_waited_too_long(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    made = [payment(number) for number in range(1, 4)]
    stores.put("payments", made)
    fresh = {"$set": {"disputed": True, "updatedAt": datetime.now(UTC)}}
    mongo["payments"].update_one({"_id": made[0]["_id"]}, fresh)
    stores.execute("UPDATE public.payments SET status = 'pending' WHERE legacy_object_id = :id", id=str(made[1]["_id"]))
    with transaction(database.engine()) as connection:
        ask_mirror(connection, "payments", stores.ids.uuid("payments", made[1]["_id"]))
    # A time to come excuses nothing.
    later = {"$set": {"disputed": True, "updatedAt": datetime.now(UTC) + timedelta(days=1)}}
    mongo["payments"].update_one({"_id": made[2]["_id"]}, later)
    outcome = one(verify(database.engine(), mongo, ["payments"]))
    assert (outcome.counted.waiting, outcome.counted.different) == (2, 1)
    stores.execute("UPDATE fleet.mirror_differences SET first_seen_at = first_seen_at - interval '11 minutes'")
    outcome = one(verify(database.engine(), mongo, ["payments"]))
    assert (outcome.counted.waiting, outcome.counted.different) == (0, 3)
