"""Every document of MongoDB in Postgres: none lost, none guessed, money never rewritten; stopped and repeated at will."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from bson import Decimal128, ObjectId

from custody.mirror.backfill import (
    BackfillRefused,
    backfill,
    check,
    require_allowed_host,
    running,
)
from custody.mirror.collections import COLLECTIONS
from custody.store.mongo import open_mongo
from tests.backfilling import contents, execute, fill, gaps, run, wrong
from tests.brought_over import Mongo
from tests.conftest import Database
from tests.counts import ONLY_LONG, Counts, declared
from tests.legacy_documents import START
from tests.security_gaps import close_gap
from workers.embedded.services import Services

USERS: Final = declared(400, 24)


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-backfill") as client:
        yield client[mongo_database]


# The whole marketplace --------------------------------------------------------------------------------------------


def test_a_whole_marketplace_is_brought_over_and_a_second_run_changes_nothing(
    database: Database, mongo: Mongo, counts: Counts
) -> None:
    legacy = fill(mongo, USERS)
    assert set(legacy.documents) == set(COLLECTIONS)
    summaries = run(database, mongo)
    assert gaps(database) == []
    assert wrong(database, mongo) == []
    assert sum(each.documents.inserted for each in summaries) == legacy.count()
    assert all(each.documents.is_finished and not each.documents.refused for each in summaries)
    assert not any(each.unknown for each in summaries)
    before = contents(database)
    again = run(database, mongo, batch=7)
    assert contents(database) == before
    assert [(each.documents.inserted, each.documents.updated) for each in again] == [(0, 0)] * len(COLLECTIONS)
    counts("documents compared", legacy.count())


def test_what_mongodb_owns_follows_it_and_children_with_it(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 8)
    run(database, mongo)
    later = datetime(2031, 1, 1, tzinfo=UTC)
    for collection, change in {
        "users": {"firstName": "Changed", "points": {"total": 7}, "passkeys": [], "referredBy": None},
        "purchaserequests": {"specifications": [{"key": "k", "value": "v"}], "serviceInfo": {"duration": "1 h"}},
        "chats": {"messages": [{"text": "new", "at": later}]},
        "payments": {"metadata": {"note": 1}, "disputed": False},
    }.items():
        mongo[collection].update_many({}, {"$set": {**change, "updatedAt": later}})
    summaries = {each.collection: each.documents for each in run(database, mongo)}
    assert wrong(database, mongo) == []
    assert gaps(database) == []
    assert [summaries[name].updated for name in ("users", "purchaserequests", "chats", "payments", "reviews")] == [
        8, 8, 8, 8, 0,
    ]  # fmt: skip
    assert len(legacy.documents["reviews"]) == 8


def test_only_documents_changed_since_are_read(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 8)
    run(database, mongo)
    later = datetime(2031, 1, 1, tzinfo=UTC)
    chosen = legacy.documents["notifications"][3]["_id"]
    mongo.notifications.update_one({"_id": chosen}, {"$set": {"title": "new", "updatedAt": later}})
    (summary,) = run(database, mongo, "notifications", since=later)
    assert (summary.documents.seen, summary.documents.updated) == (1, 1)
    assert wrong(database, mongo) == []


# Stopped and gone on -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a kill between two batches."""


@ONLY_LONG
def test_a_backfill_that_was_stopped_goes_on_behind_its_last_batch(
    database: Database, mongo: Mongo, counts: Counts
) -> None:
    legacy = fill(mongo, 12)
    stops = 0

    def stop_after(batches: int) -> None:
        done = 0

        def said(_: object) -> None:
            nonlocal done
            done += 1
            if done == batches:
                raise Killed

        backfill(database.engine(), mongo, batch=5, said=said)

    seen = 0
    while True:
        try:
            stop_after(3)
        except Killed:
            stops += 1
            (now,) = execute(database, "SELECT sum(inserted) AS n FROM fleet.backfill_progress")
            assert now.n >= seen
            seen = now.n
            if now.n == legacy.count():
                break
    run(database, mongo, batch=5)
    assert stops > 5
    assert gaps(database) == []
    assert wrong(database, mongo) == []
    counts("kills between batches", stops)


def test_an_error_inside_a_batch_leaves_no_part_of_it(
    database: Database, mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mongo, 8)
    real = running.write

    def dying(connection: Any, progress: Any) -> None:
        if progress.collection == "payments":
            raise Killed
        real(connection, progress)

    with monkeypatch.context() as patch:
        patch.setattr(running, "write", dying)
        with pytest.raises(Killed):
            run(database, mongo)
    assert execute(database, "SELECT count(*) AS n FROM public.payments")[0].n == 0
    assert execute(database, "SELECT count(*) AS n FROM public.id_map WHERE collection = 'payments'")[0].n == 0
    run(database, mongo)
    assert wrong(database, mongo) == []


def test_one_backfill_at_a_time(database: Database, mongo: Mongo) -> None:
    fill(mongo, 4)

    def second(_: object) -> None:
        with pytest.raises(BackfillRefused, match="another backfill"):
            run(database, mongo)

    backfill(database.engine(), mongo, collections=["users"], said=second)


# Money (R7) --------------------------------------------------------------------------------------------------------


def test_money_that_was_changed_in_mongodb_is_not_applied_and_is_reported(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 6)
    run(database, mongo)
    paid = next(each for each in legacy.documents["payments"] if each.get("blockchain"))
    before = execute(database, "SELECT * FROM public.payments WHERE legacy_object_id = :id", id=str(paid["_id"]))[0]
    ledger = contents(database)["funds_ledger_entries"]
    mongo.payments.update_one(
        {"_id": paid["_id"]},
        {"$set": {"amount.amount": Decimal128("999"), "status": "refunded", "escrowState": "refunded",
                  "blockchain.sender": "0xEE", "metadata": {"note": 1}}},
    )  # fmt: skip
    mongo.fundsledgerentries.update_many({}, {"$set": {"amount": Decimal128("5")}})
    mongo.deriveddestinations.update_many({}, {"$set": {"address": "0xEE", "sweeps": [], "status": "active"}})
    destinations = contents(database)["derived_destinations"]
    run(database, mongo)
    after = execute(database, "SELECT * FROM public.payments WHERE legacy_object_id = :id", id=str(paid["_id"]))[0]
    assert {**after._mapping, "metadata": 0} == {**before._mapping, "metadata": 0}
    assert after.metadata == {"note": 1}
    assert contents(database)["funds_ledger_entries"] == ledger
    assert contents(database)["derived_destinations"] == destinations
    (gap,) = gaps(database)
    assert (gap.severity, gap.object_id) == ("security", str(paid["_id"]))
    assert gap.reason.startswith(f"amount.amount: expected {before.amount}, which nobody changes (R7), got 999")
    (alarm,) = execute(database, "SELECT kind, payment_id FROM fleet.alarms")
    assert (alarm.kind, alarm.payment_id) == ("security_gap", before.id)
    # Put back, it stays: two persons say that the payment may go on (R10).
    mongo.payments.update_one({"_id": paid["_id"]}, {"$set": {"amount": paid["amount"]}})
    run(database, mongo)
    assert [each.id for each in gaps(database)] == [gap.id]
    assert [row.gap_id for row in execute(database, "SELECT gap_id FROM fleet.security_pauses")] == [gap.id]


def test_what_two_persons_left_as_it_is_is_asked_again_only_when_it_is_another(
    database: Database, mongo: Mongo
) -> None:
    legacy = fill(mongo, 6)
    run(database, mongo)
    paid = next(each for each in legacy.documents["payments"] if each.get("blockchain"))

    # A development chain: two labels are two persons there.
    execute(
        database,
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (31337, 1, '0x', now())",
    )

    def gaps_of(amount: str) -> list[UUID]:
        mongo.payments.update_one({"_id": paid["_id"]}, {"$set": {"amount.amount": Decimal128(amount)}})
        run(database, mongo)
        return [each.id for each in gaps(database)]

    [left] = gaps_of("999")
    close_gap(database, left)
    assert gaps_of("999") == []
    [other] = gaps_of("998")
    close_gap(database, other, write_again=True)
    # It was to be written again, and was not.
    assert len(gaps_of("998")) == 1


def test_a_row_that_is_there_keeps_its_id_and_one_of_id_map_is_used(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 4)
    first, second, third, _ = (str(each["_id"]) for each in legacy.documents["users"])
    own, mapped = uuid4(), uuid4()
    execute(database, "INSERT INTO public.users (id, legacy_object_id) VALUES (:id, :legacy)", id=own, legacy=first)
    record = "INSERT INTO public.id_map (collection, legacy_object_id, new_id) VALUES ('users', :legacy, :id)"
    execute(database, record, id=mapped, legacy=second)
    execute(database, "INSERT INTO public.users (legacy_object_id) VALUES (:legacy)", legacy=third)
    execute(database, record, id=uuid4(), legacy=third)
    (summary,) = run(database, mongo, "users")
    ids = {row.legacy_object_id: row.id for row in execute(database, "SELECT id, legacy_object_id FROM public.users")}
    assert (ids[first], ids[second]) == (own, mapped)
    assert (summary.documents.inserted, summary.documents.updated, summary.documents.refused) == (2, 1, 1)
    (gap,) = gaps(database)
    assert gap.object_id == third
    assert "but id_map says" in gap.reason


def test_what_the_mirror_has_still_to_write_is_not_taken_back(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 4)
    run(database, mongo)
    moved = str(legacy.documents["purchaserequests"][0]["_id"])
    execute(database, "UPDATE public.purchase_requests SET status = 'completed' WHERE legacy_object_id = :id", id=moved)
    execute(
        database,
        "INSERT INTO fleet.outbox (queue, collection, document_id) SELECT 'mirror', 'purchaserequests', id "
        "FROM public.purchase_requests WHERE legacy_object_id = :id",
        id=moved,
    )
    read = "SELECT status::text FROM public.purchase_requests WHERE legacy_object_id = :id"
    run(database, mongo, "purchaserequests")
    assert execute(database, read, id=moved)[0].status == "completed"
    execute(database, "DELETE FROM fleet.outbox")
    run(database, mongo, "purchaserequests")
    assert wrong(database, mongo) == []


def test_after_the_first_seal_no_older_entry_joins_the_ledger(database: Database, mongo: Mongo) -> None:
    fill(mongo, 4)
    run(database, mongo, "users", "categories", "purchaserequests", "selleroffers", "payments")
    execute(
        database,
        "INSERT INTO fleet.ledger_seals (seal_no, from_tx, to_tx, entries, merkle_root, prev_seal_hash, sealed_at, key_id, "
        "seal_hash, signature, leaves) VALUES (1, 0, 1, 1, :h, :h, now(), 'k', :h, :s, :l)",
        h=bytes(32), s=bytes(64), l=bytes(48),
    )  # fmt: skip
    (summary,) = run(database, mongo, "fundsledgerentries")
    assert (summary.documents.inserted, summary.documents.refused) == (0, 8)
    assert {gap.reason.partition(",")[0] for gap in gaps(database)} == {
        "_id: expected it before the ledger's first seal"
    }
    assert execute(database, "SELECT count(*) AS n FROM public.funds_ledger_entries")[0].n == 0


# Who may, and looking first ------------------------------------------------------------------------------------


def test_only_a_host_that_is_named_is_written_to(database: Database) -> None:
    require_allowed_host(database.engine(), "127.0.0.1,localhost,::1")
    with pytest.raises(BackfillRefused, match=r"BACKFILL_DATABASE_HOSTS allows db\.example\.org"):
        require_allowed_host(database.engine(), "db.example.org")


def test_looking_first_writes_nothing_and_finds_what_would_be_refused(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 6)
    mongo.payments.update_one(
        {"_id": legacy.documents["payments"][0]["_id"]}, {"$set": {"status": "done", "riskScore": 1}}
    )
    mongo.reviews.update_one({"_id": legacy.documents["reviews"][0]["_id"]}, {"$set": {"reviewerId": ObjectId()}})
    before = contents(database)
    found = {each.collection: each for each in check(database.engine(), mongo, batch=4)}
    assert contents(database) == before
    assert sum(each.seen for each in found.values()) == legacy.count()
    assert {name: each.refused for name, each in found.items() if each.refused} == {"payments": 1, "reviews": 1}
    assert "status: " in found["payments"].reasons[0]
    assert "is in neither store" in found["reviews"].reasons[0]
    assert found["payments"].unknown == {"riskScore": 1}


@pytest.mark.parametrize("collections", [["users", "levelconfigs"], ["nothing"]])
def test_a_collection_that_has_no_table_is_refused(database: Database, mongo: Mongo, collections: list[str]) -> None:
    with pytest.raises(BackfillRefused, match="no collection"):
        backfill(database.engine(), mongo, collections=collections)


def test_amounts_of_every_spelling_are_exact(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 6)
    spelled: list[tuple[Any, Decimal]] = [
        (0.1 + 0.2, Decimal("0.30000000000000004")), ("12.50", Decimal("12.5")), (7, Decimal(7)),
        (Decimal128("1.000000000000000001"), Decimal("1.000000000000000001")), (1e-7, Decimal("0.0000001")),
    ]  # fmt: skip
    for document, (amount, _) in zip(legacy.documents["payments"], spelled, strict=False):
        mongo.payments.update_one({"_id": document["_id"]}, {"$set": {"amount.amount": amount}})
    run(database, mongo)
    for document, (_, expected) in zip(legacy.documents["payments"], spelled, strict=False):
        read = "SELECT amount FROM public.payments WHERE legacy_object_id = :id"
        assert execute(database, read, id=str(document["_id"]))[0].amount == expected


def test_ids_of_new_rows_follow_their_documents_time(database: Database, mongo: Mongo) -> None:
    legacy = fill(mongo, 4)
    run(database, mongo, "users")
    ids: list[UUID] = [row.id for row in execute(database, "SELECT id FROM public.users ORDER BY id")]
    order = [row.legacy_object_id for row in execute(database, "SELECT legacy_object_id FROM public.users ORDER BY id")]
    assert order == [str(each["_id"]) for each in legacy.documents["users"]]
    assert {each.version for each in ids} == {7}
    assert datetime.fromtimestamp((ids[0].int >> 80) // 1000, UTC) - START <= timedelta(days=1)
