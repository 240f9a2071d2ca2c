"""The mirror on a real PostgreSQL and a real MongoDB: field names, ownership, order, absence, refusals."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pymongo
import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo.database import Database as MongoDatabase

from custody.ledger import Entry, post
from custody.mirror import applying, run_once
from custody.mirror.claims import claim
from custody.store.engine import SocketInsideTransaction, transaction
from custody.store.mongo import open_mongo
from custody.store.outbox import mirror
from tests.conftest import Database
from tests.fleet_process import wait_for
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.mongo_proxy import MongoProxy
from workers.embedded.services import Services

Mongo = MongoDatabase[dict[str, Any]]


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-mirror") as client:
        yield client[mongo_database]


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def ask(database: Database, collection: str, row_id: UUID) -> None:
    with transaction(database.engine("fleet_watcher")) as connection:
        mirror(connection, collection, row_id)


def apply(database: Database, mongo: Mongo, limit: int = 100) -> int:
    return run_once(database.engine("fleet_mirror"), mongo, limit)


def waiting(market: Marketplace) -> int:
    return market.execute("SELECT count(*) AS n FROM fleet.outbox WHERE queue = 'mirror'")[0].n


def legacy(market: Marketplace, table: str, row_id: UUID) -> ObjectId:
    return ObjectId(
        market.execute(f"SELECT legacy_object_id FROM public.{table} WHERE id = :id", id=row_id)[0].legacy_object_id
    )


def test_a_payment_the_backend_does_not_have_is_created_with_its_field_names(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = market.payment(Decimal("12.345678"))
    market.put(payment, "confirmed", "funded")
    market.execute("UPDATE public.payments SET sender = '0xabc', confirmations = 3 WHERE id = :id", id=payment)
    ask(database, "payments", payment)
    assert apply(database, mongo) == 1
    row = market.execute("SELECT * FROM public.payments WHERE id = :id", id=payment)[0]
    document = mongo["payments"].find_one({"_id": legacy(market, "payments", payment)})
    assert document is not None
    assert document["amount"] == {"amount": Decimal128("12.345678"), "currency": "USDC"}
    assert document["purchaseRequestId"] == legacy(market, "purchase_requests", row.purchase_request_id)
    assert document["sellerOfferId"] == legacy(market, "seller_offers", row.seller_offer_id)
    assert document["buyerId"] == legacy(market, "users", row.buyer_id)
    assert document["sellerId"] == legacy(market, "users", row.seller_id)
    assert (document["status"], document["escrowState"]) == ("confirmed", "funded")
    assert (document["provider"], document["direction"]) == ("request.network", "in")
    assert document["providerPaymentId"] == row.provider_payment_id
    assert (document["blockchain"]["sender"], document["blockchain"]["confirmations"]) == ("0xabc", 3)
    assert "transactionHash" not in document["blockchain"]
    assert waiting(market) == 0
    assert apply(database, mongo) == 0


def test_only_the_fleet_s_fields_of_an_existing_payment_change(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = market.payment(Decimal(100))
    object_id = legacy(market, "payments", payment)
    theirs = {"amount": {"amount": 99.5, "currency": "USDT"}, "metadata": {"note": "ours"}, "quote": {"fxRate": 1}}
    mongo["payments"].insert_one({"_id": object_id, "status": "pending", "escrowState": "partial", **theirs})
    market.execute("UPDATE public.payments SET status = 'processing' WHERE id = :id", id=payment)
    ask(database, "payments", payment)
    apply(database, mongo)
    document = mongo["payments"].find_one({"_id": object_id})
    assert document is not None
    assert {name: document[name] for name in theirs} == theirs
    assert document["status"] == "processing"
    assert "escrowState" not in document  # absent while nothing is held, as the backend has it
    assert "buyerId" not in document


@pytest.mark.parametrize(("theirs", "is_written"), [(None, True), ("tron", False)])
def test_a_null_where_a_nested_document_is_expected_becomes_one_and_nothing_else_does(
    database: Database, market: Marketplace, mongo: Mongo, theirs: object, *, is_written: bool
) -> None:
    payment = market.payment()
    object_id = legacy(market, "payments", payment)
    mongo["payments"].insert_one({"_id": object_id, "status": "pending", "blockchain": theirs, "note": "kept"})
    market.execute("UPDATE public.payments SET sender = '0xabc', confirmations = 3 WHERE id = :id", id=payment)
    ask(database, "payments", payment)
    assert apply(database, mongo) == 1
    document = mongo["payments"].find_one({"_id": object_id})
    assert document is not None
    assert document["note"] == "kept"
    gaps = market.execute("SELECT reason FROM public.pg_dualwrite_gaps")
    if is_written:
        assert (document["blockchain"], gaps) == ({"sender": "0xabc", "confirmations": 3}, [])
    else:
        assert document["blockchain"] == theirs
        assert "28" in gaps[0].reason


def test_templates_are_strings_and_rows_born_in_postgres_get_an_object_id_once(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = market.payment()
    market.execute(
        "UPDATE public.payments SET legacy_object_id = NULL, purchase_request_ref_kind = 'template', "
        "purchase_request_id = NULL, purchase_request_external_ref = 'template-checkout-7' WHERE id = :id",
        id=payment,
    )
    for _ in range(2):
        ask(database, "payments", payment)
        apply(database, mongo)
    (document,) = mongo["payments"].find()
    assert document["purchaseRequestId"] == "template-checkout-7"
    (known,) = market.execute("SELECT * FROM public.id_map WHERE new_id = :id", id=payment)
    assert (known.collection, known.legacy_object_id) == ("payments", str(document["_id"]))


def test_a_ledger_entry_is_written_once_and_never_again(database: Database, market: Marketplace, mongo: Mongo) -> None:
    payment = market.payment()
    fact = market.fact(payment, 1)
    address = "0x" + "11" * 20
    with transaction(database.engine("fleet_watcher")) as connection:
        entry = Entry(
            book_kind="payment", book_id=payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="payment_detected",
            reason="seen", debit="destination", credit="detected", amount=Decimal("0.000001"), key="chain:1",
            debit_address=address, fact_id=fact, evidence={"block": 10},
        )  # fmt: skip
        posted = post(connection, entry)
    assert apply(database, mongo) == 1
    (document,) = mongo["fundsledgerentries"].find()
    assert document["type"] == "payment_detected"
    assert document["amount"] == Decimal128("0.000001")
    assert (document["debit"], document["credit"], document["debitAddress"]) == ("destination", "detected", address)
    assert (document["currency"], document["idempotencyKey"], document["reason"]) == ("USDC", "chain:1", "seen")
    assert document["paymentId"] == legacy(market, "payments", payment)
    assert document["metadata"] == {"block": 10}
    (known,) = market.execute("SELECT legacy_object_id FROM public.id_map WHERE new_id = :id", id=posted.entry_id)
    assert known.legacy_object_id == str(document["_id"])
    ask(database, "fundsledgerentries", posted.entry_id)
    apply(database, mongo)
    assert list(mongo["fundsledgerentries"].find()) == [document]


def test_a_destination_has_its_sweeps_and_uint256_amounts_as_text(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    market.payment()
    (destination,) = market.execute(
        "UPDATE public.derived_destinations SET balance = 2::numeric ^ 255, status = 'swept' RETURNING *"
    )
    market.execute(
        "INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address, "
        "transaction_hash, from_address, to_address, amount) VALUES (:id, 1, 't', '0xhash', 'f', 'g', 5)",
        id=destination.id,
    )
    ask(database, "deriveddestinations", destination.id)
    apply(database, mongo)
    (document,) = mongo["deriveddestinations"].find()
    assert document["balance"] == str(2**255)
    assert document["sweepCount"] == 1
    assert (document["address"], document["status"]) == (destination.address, "swept")
    assert [(sweep["transactionHash"], sweep["amount"]) for sweep in document["sweeps"]] == [("0xhash", "5")]


def test_of_a_purchase_request_only_the_status_is_written_and_none_is_created(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    market.payment()
    (request,) = market.execute("UPDATE public.purchase_requests SET status = 'seller_paid' RETURNING *")
    ask(database, "purchaserequests", request.id)
    assert apply(database, mongo) == 1
    assert mongo["purchaserequests"].count_documents({}) == 0
    (gap,) = market.execute("SELECT * FROM public.pg_dualwrite_gaps")
    assert "has no document" in gap.reason
    mongo["purchaserequests"].insert_one({"_id": ObjectId(request.legacy_object_id), "title": "theirs"})
    ask(database, "purchaserequests", request.id)
    apply(database, mongo)
    (document,) = mongo["purchaserequests"].find()
    assert (document["title"], document["status"]) == ("theirs", "seller_paid")
    (gap,) = market.execute("SELECT resolved_by FROM public.pg_dualwrite_gaps")
    assert gap.resolved_by == "fleet_mirror"


def test_a_late_write_never_wins(database: Database, market: Marketplace, mongo: Mongo) -> None:
    payment = market.payment()
    engine = database.engine("fleet_mirror")
    ask(database, "payments", payment)
    with transaction(engine) as connection:
        claims, version = claim(connection, 10)
        late = applying._read(connection, claims)
    market.execute("UPDATE public.payments SET status = 'processing' WHERE id = :id", id=payment)
    ask(database, "payments", payment)
    apply(database, mongo)
    applying._write(mongo, late, version)  # the first mirror wakes up with what it had read before
    assert late[0].written
    assert late[0].refused is None
    (document,) = mongo["payments"].find()
    assert document["status"] == "processing"


def test_mongo_away_keeps_every_row_and_nothing_is_tried_twice_at_once(
    database: Database, market: Marketplace, services: Services, mongo_database: str, mongo: Mongo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("custody.store.mongo.SERVER_SELECTION_TIMEOUT_MS", 300)
    proxy = MongoProxy(services.mongo_url)
    try:
        with open_mongo(proxy.url, application="test-mirror") as client:
            far = client[mongo_database]
            ask(database, "payments", market.payment())
            proxy.shut()
            assert apply(database, far) == 0
            (row,) = market.execute("SELECT attempts, run_after <= now() AS due FROM fleet.outbox")
            assert (row.attempts, row.due) == (0, True)  # nobody tried it: due at once when MongoDB is back
            proxy.open()

            def goes_away(_: Mongo) -> bool:
                proxy.shut()
                return True

            monkeypatch.setattr(applying, "_is_there", goes_away)
            assert apply(database, far) == 0
            (row,) = market.execute("SELECT attempts, run_after > now() AS later, last_error FROM fleet.outbox")
            assert (row.attempts, row.later) == (1, True)
            assert row.last_error.startswith("MongoDB was away")
            monkeypatch.undo()
            market.execute("UPDATE fleet.outbox SET run_after = now()")
            proxy.open()
            wait_for(lambda: apply(database, far) == 1)  # the driver finds its primary again in its own time
    finally:
        proxy.close()
    assert mongo["payments"].count_documents({}) == 1
    assert market.execute("SELECT count(*) AS n FROM public.pg_dualwrite_gaps")[0].n == 0


def test_what_mongo_refuses_becomes_a_gap_and_dead_work_and_holds_nothing_else_up(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    mongo.create_collection("payments", validator={"status": {"$ne": "failed"}})
    mongo["payments"].create_index("providerPaymentId", unique=True)
    refused, duplicate, bad_id, fine = (market.payment(Decimal(n)) for n in (1, 2, 3, 4))
    mongo["payments"].insert_one({"providerPaymentId": "taken"})
    market.execute("UPDATE public.payments SET status = 'failed' WHERE id = :id", id=refused)
    market.execute("UPDATE public.payments SET provider_payment_id = 'taken' WHERE id = :id", id=duplicate)
    market.execute("UPDATE public.payments SET legacy_object_id = 'not-an-id' WHERE id = :id", id=bad_id)
    for payment in (refused, duplicate, bad_id, fine):
        ask(database, "payments", payment)
    assert apply(database, mongo) == 4
    assert waiting(market) == 0
    assert mongo["payments"].find_one({"_id": legacy(market, "payments", fine)}) is not None
    dead = {UUID(row.subject_id): row for row in market.execute("SELECT * FROM fleet.dead_work")}
    assert set(dead) == {refused, duplicate, bad_id}
    assert "(121)" in dead[refused].reason
    assert "(11000)" in dead[duplicate].reason
    assert "expected 24 hex digits" in dead[bad_id].reason
    gaps = market.execute("SELECT * FROM public.pg_dualwrite_gaps WHERE legacy_object_id IS NOT NULL")
    assert {gap.legacy_object_id for gap in gaps} == {
        str(legacy(market, "payments", refused)),
        str(legacy(market, "payments", duplicate)),
    }
    assert all(gap.severity == "error" and gap.payload["$set"] for gap in gaps)
    mongo["payments"].delete_one({"providerPaymentId": "taken"})
    ask(database, "payments", duplicate)
    apply(database, mongo)
    (row,) = market.execute("SELECT resolved_at FROM fleet.dead_work WHERE subject_id = :id", id=str(duplicate))
    assert row.resolved_at is not None


def test_more_digits_than_mongo_holds_are_refused_not_rounded(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = market.payment()
    market.execute(
        "UPDATE public.payments SET amount = 12345678901234567890.123456789012345678 WHERE id = :id", id=payment
    )
    ask(database, "payments", payment)
    apply(database, mongo)
    assert mongo["payments"].count_documents({}) == 0
    (row,) = market.execute("SELECT reason FROM fleet.dead_work")
    assert "Inexact" in row.reason


def test_many_rows_of_one_document_are_one_write_and_two_mirrors_share_the_work(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payments = [market.payment() for _ in range(6)]
    for payment in payments:
        for _ in range(3):
            ask(database, "payments", payment)
    engine = database.engine("fleet_mirror")
    with transaction(engine) as first, transaction(database.engine()) as second:
        mine, _ = claim(first, 9)
        theirs, _ = claim(second, 9)
        rows = [row for claimed in mine + theirs for row in claimed.row_ids]
        assert len(rows) == len(set(rows)) == 18
        first.rollback()
        second.rollback()
    assert apply(database, mongo) == 18
    assert mongo["payments"].count_documents({}) == 6


def test_it_touches_no_mongo_inside_a_transaction(database: Database, mongo: Mongo) -> None:
    with transaction(database.engine("fleet_mirror")), pytest.raises(SocketInsideTransaction, match="MongoDB"):
        apply(database, mongo)


def test_two_upserts_of_a_new_document_at_once_end_with_the_newer(
    database: Database, market: Marketplace, mongo: Mongo
) -> None:
    payment = market.payment()
    engine = database.engine("fleet_mirror")
    ask(database, "payments", payment)
    with transaction(engine) as connection:
        claims, version = claim(connection, 10)
        jobs = applying._read(connection, claims)
    older = pymongo.UpdateOne(
        {"_id": legacy(market, "payments", payment)}, {"$set": {"fleetVersion": version - 1}}, True
    )
    mongo["payments"].bulk_write([older])
    # What the loser of the race is told: a duplicate _id, though its version is the higher.
    applying._after_failure(mongo, "payments", jobs[0], version, {"code": 11000, "keyPattern": {"_id": 1}})
    assert jobs[0].written
    (document,) = mongo["payments"].find()
    assert (document["status"], document["fleetVersion"]) == ("pending", version)
