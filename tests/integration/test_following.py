"""What the backend writes to MongoDB is in Postgres, in order, once, and without a loop, whatever is broken meanwhile."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Int64, ObjectId
from sqlalchemy import Engine, event
from structlog.testing import capture_logs

from custody.mirror import run_once
from custody.mirror.following import EVERYTHING, everywhere, lag_seconds, positions
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from custody.store.outbox import mirror
from tests.backfilling import fill, run
from tests.conftest import Database
from tests.counts import ONLY_LONG, Counts, declared
from tests.following import Following, Mongo, following
from tests.legacy_documents import Legacy
from workers.embedded.services import Services

LATER = datetime(2031, 1, 1, tzinfo=UTC)


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-following") as client:
        yield client[mongo_database]


@pytest.fixture
def scene(database: Database, mongo: Mongo) -> Iterator[Following]:
    with following(database, mongo) as made:
        yield made


@pytest.fixture
def legacy(database: Database, mongo: Mongo, scene: Following) -> Legacy:
    """Both stores hold the same, and the follower has caught up."""
    made = fill(mongo, 6)
    run(database, mongo, batch=500)
    scene.follow()
    return made


CHANGES: dict[str, dict[str, Any]] = {
    "users": {"firstName": "Changed", "password": "another", "points": {"total": 7}, "referredBy": None},
    "categories": {"nameEn": "Changed"},
    "purchaserequests": {
        "specifications": [{"key": "k", "value": "v"}], "serviceInfo": {"duration": "1 h"}, "status": "delivered",
    },
    "selleroffers": {"deliveryDays": 4, "status": "withdrawn"},
    "requesttemplates": {"title": "Changed"},
    "payments": {"metadata": {"note": 1}, "disputed": False},
    "configsettings": {"description": "Changed"},
    "disputes": {"status": "resolved", "resolution": {"action": "refund"}},
    "chats": {"messages": [{"text": "new", "at": LATER}]},
    "notifications": {"isRead": False},
    "addresses": {"city": "Changed"},
    "pointtransactions": {"description": "Changed"},
    "reviews": {"rating": 2},
    "shopsettings": {"name": "Changed"},
    "blogposts": {"views": 8},
    "telegramlinks": {"username": "changed"},
    "telegramsessions": {"expiresAt": LATER},
}  # fmt: skip


def test_each_collection_follows_what_is_made_changed_and_deleted(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    for collection, change in CHANGES.items():
        mongo[collection].update_many({}, {"$set": change})
    scene.follow()
    assert scene.gaps() == []
    assert scene.differing() == {}
    # New ones, those that are referred to last: an event of an offer may come before its request's.
    more = Legacy(seed=9, size=5)
    for user in more.documents["users"]:
        user["email"] = f"new-{user['_id']}@example.org"
        user["referralCode"] = f"new-{user['_id']}"
        user["passkeys"] = [{"id": f"new-{user['_id']}", "publicKey": "pk", "createdAt": LATER}]
    for name, unique in (
        ("categories", "name"), ("requesttemplates", "shareLink"), ("blogposts", "slug"), ("telegramlinks", "telegramUserId"),
        ("telegramsessions", "tokenHash"), ("telegramsessions", "initDataFingerprint"),
    ):  # fmt: skip
        for document in more.documents[name]:
            document[unique] = f"new {document['_id']}"
    for payment in more.documents["payments"]:
        payment |= {"status": "pending", "escrowState": None, "blockchain": {"network": "bsc"}}
    made = [name for name in CHANGES if name != "configsettings"]
    for name in reversed(made):
        mongo[name].insert_many(more.documents[name])
    scene.follow()
    scene.hasten()
    scene.follow()
    assert scene.gaps() == []
    assert scene.differing() == {}
    # Gone, where nothing refers to them and nothing of them is the fleet's.
    for name in ("chats", "notifications", "addresses", "pointtransactions", "reviews", "shopsettings", "blogposts",
                 "telegramlinks", "telegramsessions"):  # fmt: skip
        mongo[name].delete_many({"_id": {"$in": [each["_id"] for each in more.documents[name]]}})
    scene.follow()
    assert scene.gaps() == []
    assert scene.differing() == {}
    # Elsewhere the row stays, and somebody is told.
    request = more.documents["purchaserequests"][0]
    mongo["purchaserequests"].delete_one({"_id": request["_id"]})
    scene.follow()
    (gap,) = scene.gaps()
    assert (gap.collection, gap.object_id, gap.severity) == ("purchaserequests", str(request["_id"]), "error")
    assert "its row stays" in gap.reason
    mongo["purchaserequests"].insert_one(request)
    scene.follow()
    assert scene.gaps() == []


def test_a_document_that_refers_to_one_to_come_follows_once_that_is_there(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    user = {
        **legacy.documents["users"][0],
        "_id": ObjectId(),
        "email": "late@example.org",
        "referralCode": "late",
        "passkeys": [],
    }
    offer = {**legacy.documents["selleroffers"][0], "_id": ObjectId()}
    request = {
        **legacy.documents["purchaserequests"][0], "_id": ObjectId(), "buyerId": user["_id"], "selectedOfferId": offer["_id"],
    }  # fmt: skip
    offer["purchaseRequestId"] = request["_id"]
    mongo["purchaserequests"].insert_one(request)
    scene.follow()
    (gap,) = scene.gaps()
    assert (gap.severity, gap.op) == ("warning", "follow")
    assert [row.reason for row in scene.revisits()] == ["refused"]
    mongo["users"].insert_one(user)
    scene.follow()
    scene.hasten()
    scene.follow()
    (gap,) = scene.gaps()  # the request is there, its offer is not
    assert gap.reason.startswith("selectedOfferId: ")
    mongo["selleroffers"].insert_one(offer)
    scene.follow()
    scene.hasten()
    scene.follow()
    assert scene.gaps() == []
    assert scene.revisits() == []
    assert scene.differing() == {}


@ONLY_LONG
def test_the_last_of_many_changes_stands(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    chats = [document["_id"] for document in legacy.documents["chats"]]
    for number in range(60):
        mongo["chats"].update_one({"_id": chats[number % len(chats)]}, {"$set": {"name": f"name {number}"}})
        if number % 7 == 0:
            scene.follower.step()
    position = scene.follow()
    assert scene.differing() == {}
    assert position.by_backend >= 60


# No loop ---------------------------------------------------------------------------------------------------------------------


def test_nothing_goes_round(scene: Following, legacy: Legacy, mongo: Mongo, database: Database) -> None:
    def outbox() -> int:
        return scene.execute("SELECT count(*) AS n FROM fleet.outbox")[0].n

    def rows() -> list[Any]:
        return [
            sorted(row.said for row in scene.execute(f"SELECT t.xmin::text || t::text AS said FROM public.{table} t"))
            for table in ("payments", "purchase_requests", "derived_destinations", "trezor_accounts")
        ]

    for collection, change in CHANGES.items():
        mongo[collection].update_many({}, {"$set": change})
    before = outbox()
    scene.follow()
    assert outbox() == before == 0
    # What the fleet writes comes back as the mirror's own, and changes nothing.
    with transaction(database.engine()) as connection:
        for collection, table in (("payments", "payments"), ("purchaserequests", "purchase_requests"),
                                  ("deriveddestinations", "derived_destinations"), ("trezoraccounts", "trezor_accounts")):  # fmt: skip
            for row in connection.exec_driver_sql(
                f"UPDATE public.{table} SET updated_at = clock_timestamp() RETURNING id"
            ):
                mirror(connection, collection, row.id)
    written = run_once(database.engine("fleet_mirror"), mongo, 1000)
    assert written == 24
    standing, position = rows(), scene.follower.position
    assert position is not None
    after = scene.follow()
    assert after.by_fleet - position.by_fleet >= 18  # a purchase request's own status carries no version of the fleet's
    assert rows() == standing
    assert outbox() == 0
    assert scene.gaps() == []
    # Nothing is left to say, in either direction.
    assert run_once(database.engine("fleet_mirror"), mongo, 1000) == 0
    again = scene.follow()
    assert (again.by_fleet, again.by_backend) == (after.by_fleet, after.by_backend)


# Beginnings and breaks ---------------------------------------------------------------------------------------------------------


def test_what_changed_since_the_backfill_began_is_followed(scene: Following, mongo: Mongo, database: Database) -> None:
    made = fill(mongo, 6)
    run(database, mongo, batch=500)
    mongo["chats"].update_many({}, {"$set": {"name": "after the backfill", "updatedAt": datetime.now(UTC)}})
    mongo["users"].update_one(
        {"_id": made.documents["users"][0]["_id"]}, {"$set": {"firstName": "After", "updatedAt": datetime.now(UTC)}}
    )
    scene.follow()
    assert scene.differing() == {}


def test_a_place_that_mongodb_has_forgotten_costs_a_scan(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    token = {"resumeAfter": {"_data": "82" + "00" * 20}}  # no place that its log has
    for number in range(2):
        scene.restart()
        mongo["chats"].update_many({}, {"$set": {"name": f"missed {number}", "updatedAt": datetime.now(UTC)}})
        with transaction(scene.database.engine()) as connection:
            position = positions.read(connection, EVERYTHING)
            assert position is not None
            positions.put(connection, EVERYTHING, "stream", token, position.followed_to)
        with capture_logs() as said:
            scene.follow()
        assert [each["event"] for each in said if each["log_level"] == "error"] == ["mirror_history_lost"]
        assert scene.differing() == {}
        with transaction(scene.database.engine()) as connection:
            rows = everywhere(connection)
        assert rows[0].mode == "stream"
        assert all(row.caught_up for row in rows)
        # And the stream goes on from before the scan.
        mongo["chats"].update_many({}, {"$set": {"name": "seen"}})
        scene.follow()
        assert scene.differing() == {}


def test_collections_that_come_and_go_whole(scene: Following, legacy: Legacy, mongo: Mongo, database: Database) -> None:
    documents = legacy.documents["blogposts"]
    mongo["notifications"].drop()
    mongo["drafts"].insert_many(
        [{**document, "_id": ObjectId(), "slug": f"new-{document['_id']}"} for document in documents]
    )
    mongo["blogposts"].drop()
    mongo["drafts"].rename("blogposts")
    scene.follow()
    gone = {(gap.collection, gap.severity) for gap in scene.gaps()}
    assert gone == {("notifications", "error"), ("blogposts", "error")}
    assert scene.execute("SELECT count(*) AS n FROM public.blog_posts")[0].n == 2 * len(documents)
    mongo["payments"].drop()
    mongo.client.drop_database(mongo.name)
    scene.follow()
    for collection in ("payments", "disputes"):  # R14: without its dispute a payment looks undisputed
        assert {gap.severity for gap in scene.gaps(collection=collection)} == {"security"}
    # What is written after that follows as ever.
    mongo["users"].insert_one({**legacy.documents["users"][0], "firstName": "Back"})
    scene.follow()
    assert scene.execute("SELECT FROM public.users WHERE first_name = 'Back'") != []


ODD: list[tuple[str, dict[str, Any]]] = [
    ("chats", {"messages": [{"text": "m" * 1_000_000}] * 5}),  # taken: it is only large
    ("chats", {"createdAt": "yesterday"}),
    ("chats", {"name": "a\x00b"}),
    ("reviews", {"rating": 9}),
    ("notifications", {"updatedAt": Int64(7)}),
]


def test_a_document_that_cannot_be_taken_stops_no_other(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    for number, (collection, change) in enumerate(ODD):
        mongo[collection].update_one({"_id": legacy.documents[collection][number]["_id"]}, {"$set": change})
    mongo["chats"].insert_one({**legacy.documents["chats"][0], "_id": "no ObjectId"})
    # A value that another document has: Postgres refuses it until that one has another.
    first, second = legacy.documents["blogposts"][:2]
    mongo["blogposts"].update_one({"_id": first["_id"]}, {"$set": {"slug": second["slug"]}})
    mongo["reviews"].update_one({"_id": legacy.documents["reviews"][1]["_id"]}, {"$set": {"comment": "taken"}})
    scene.follow()
    assert scene.execute("SELECT FROM public.reviews WHERE comment = 'taken'") != []
    assert {(gap.collection, gap.severity, gap.reason.partition(":")[0]) for gap in scene.gaps()} == {
        ("chats", "error", "createdAt"), ("chats", "error", "name"), ("chats", "error", "_id"), ("reviews", "error", "rating"),
        ("notifications", "error", "updatedAt"), ("blogposts", "error", "slug"),
    }  # fmt: skip
    # Put right, each gap closes by itself: that of the first article because the second has moved on.
    mongo["chats"].update_many({"_id": {"$type": "objectId"}}, {"$set": {"name": "ab", "createdAt": LATER}})
    mongo["reviews"].update_many({}, {"$set": {"rating": 5}})
    mongo["notifications"].update_many({}, {"$set": {"updatedAt": LATER}})
    mongo["blogposts"].update_one({"_id": second["_id"]}, {"$set": {"slug": "moved-on"}})
    mongo["chats"].delete_one({"_id": "no ObjectId"})
    scene.follow()
    scene.hasten()
    scene.follow()
    assert [gap.reason for gap in scene.gaps()] == []
    assert scene.differing() == {}


# Deaths --------------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing after this line runs, no handler sees it."""


class Deadly:
    """Dies before the ``at``-th statement of an engine's next connections."""

    def __init__(self, engine: Engine) -> None:
        self.seen = 0
        self.at = 0
        event.listen(engine, "before_cursor_execute", self._count)
        event.listen(engine, "commit", self._count)

    def _count(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Killed


def test_a_death_before_any_statement_loses_nothing_and_doubles_nothing(
    scene: Following, legacy: Legacy, mongo: Mongo, counts: Counts
) -> None:
    deadly = Deadly(scene.engine)
    deaths = 0

    def change(number: int) -> None:
        review = legacy.documents["reviews"][number % 6]
        mongo["users"].update_one(
            {"_id": legacy.documents["users"][number % 6]["_id"]},
            {
                "$set": {
                    "firstName": f"n{number}",
                    "passkeys": [{"id": f"k{number}", "publicKey": "p", "createdAt": LATER}],
                }
            },
        )
        mongo["purchaserequests"].update_one(
            {"_id": legacy.documents["purchaserequests"][number % 6]["_id"]},
            {"$set": {"specifications": [{"key": f"k{number}", "value": "v"}], "title": f"t{number}"}},
        )
        mongo["payments"].update_one(
            {"_id": legacy.documents["payments"][number % 6]["_id"]}, {"$set": {"metadata": {"n": number}}}
        )
        mongo["pointtransactions"].insert_one(
            {**legacy.documents["pointtransactions"][0], "_id": ObjectId(), "description": f"d{number}"}
        )
        mongo["reviews"].delete_one({"_id": review["_id"]})
        mongo["reviews"].insert_one({**review, "comment": f"c{number}"})

    deadly.seen = 0
    change(0)
    scene.restart()
    scene.follow()
    statements = deadly.seen
    assert statements > 30
    chosen = range(1, statements, declared(1, 9))
    for number in chosen:
        change(number)
        scene.restart()
        deadly.seen, deadly.at = 0, number
        try:
            scene.follow()
        except Killed:
            deaths += 1
        deadly.at = 0
        scene.restart()
    scene.follow()
    assert deaths >= len(chosen) - 3
    assert scene.differing() == {}
    assert scene.gaps() == []
    points = scene.execute(
        "SELECT count(*) AS n, count(DISTINCT legacy_object_id) AS d FROM public.point_transactions"
    )[0]
    assert points.n == points.d == 6 + 1 + len(chosen)
    counts("deaths of the follower", deaths)


@ONLY_LONG
def test_two_followers_at_once_do_the_work_of_one(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    other = scene.new()
    with capture_logs() as said:
        for number in range(8):
            mongo["chats"].update_many({}, {"$set": {"name": f"n{number}"}})
            other.step()
            scene.follower.step()
    assert "another_follower_runs" in [each["event"] for each in said]
    other.reset()
    scene.follow()
    assert scene.differing() == {}
    assert scene.gaps() == []


def test_how_far_behind_it_is(scene: Following, legacy: Legacy) -> None:
    position = scene.follow()
    now = position.updated_at
    assert lag_seconds(position, now + timedelta(seconds=5)) == 0.0
    # Silent for longer, it counts from what it had followed to.
    assert lag_seconds(position, now + timedelta(seconds=60)) >= 60.0
