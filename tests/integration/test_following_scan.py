"""Without a change stream: a MongoDB that is no replica set is followed by the time of its documents, until it becomes one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from structlog.testing import capture_logs

from custody.mirror.following import everywhere
from custody.store.engine import transaction
from tests.backfilling import fill, run
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.following import Following, Mongo, following
from tests.killable import killable
from tests.legacy_documents import Legacy
from workers.embedded import mongo as embedded


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[Mongo]:
    """A mongod by itself. Nothing is initiated on it, so that it offers no stream."""
    with killable(embedded.SERVER, tmp_path, without=("--replSet",)) as server:
        server.start(settled=False)
        url = server.url.partition("?")[0] + "?directConnection=true"
        with MongoClient[dict[str, Any]](url, tz_aware=True, serverSelectionTimeoutMS=30_000) as client:
            yield client["scanned"]


@pytest.fixture
def scene(database: Database, mongo: Mongo) -> Iterator[Following]:
    with following(database, mongo) as made:
        yield made


@pytest.fixture
def legacy(database: Database, mongo: Mongo, scene: Following) -> Legacy:
    made = fill(mongo, 6)
    run(database, mongo, batch=500)
    scene.follow()
    return made


def touch(mongo: Mongo, document: dict[str, Any], collection: str, at: datetime | None = None, **change: Any) -> None:
    mongo[collection].update_one({"_id": document["_id"]}, {"$set": {**change, "updatedAt": at or datetime.now(UTC)}})


def test_what_changes_is_found_by_its_time(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    position = scene.follower.position
    assert position is not None
    assert position.mode == "scan"
    assert position.reason is not None
    assert position.reason.startswith("no change stream")
    for number in range(3):
        for collection in ("users", "chats", "purchaserequests", "reviews"):
            touch(mongo, legacy.documents[collection][number], collection, touched=number)
        touch(mongo, legacy.documents["chats"][number], "chats", name=f"n{number}")
        new = {
            **legacy.documents["addresses"][0],
            "_id": ObjectId(),
            "city": f"new {number}",
            "updatedAt": datetime.now(UTC),
        }
        mongo["addresses"].insert_one({**new, "isPrimary": False})
        scene.follow()
        scene.follower.step()
        assert scene.differing() == {}
    assert scene.gaps() == []


@ONLY_LONG
def test_a_time_to_come_hides_nothing_that_is_written_until_then(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    touch(
        mongo, legacy.documents["chats"][0], "chats", at=datetime.now(UTC) + timedelta(days=300), name="from the future"
    )
    scene.follower.step()
    touch(mongo, legacy.documents["chats"][1], "chats", name="of today")
    scene.follower.step()
    assert scene.differing() == {}


@ONLY_LONG
def test_a_round_reads_again_only_what_is_another(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    def counted() -> dict[str, int]:
        with transaction(scene.database.engine()) as connection:
            return {row.name: row.by_backend for row in everywhere(connection)}

    touch(mongo, legacy.documents["chats"][0], "chats", name="once")
    scene.follower.step()
    before = counted()
    for _ in range(3):
        scene.follower.step()
    assert counted() == before
    # The same within the overlap, with the same time: another document all the same.
    mongo["chats"].update_one({"_id": legacy.documents["chats"][0]["_id"]}, {"$set": {"name": "twice"}})
    scene.follower.step()
    assert scene.differing() == {}


def test_money_is_compared_in_the_same_way(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    payment = next(each for each in legacy.documents["payments"] if each["status"] != "refunded")
    touch(mongo, payment, "payments", status="refunded")
    for _ in range(3):
        scene.hasten()
        scene.follow()
    (gap,) = scene.gaps()
    assert (gap.severity, gap.object_id, gap.reason.partition(":")[0]) == ("security", str(payment["_id"]), "status")


def test_a_follower_that_dies_in_a_round_goes_on_from_what_is_committed(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    for number, chat in enumerate(legacy.documents["chats"]):
        touch(mongo, chat, "chats", name=f"n{number}")
    scene.restart()
    with capture_logs() as said:
        scene.follow()
    assert [each["mode"] for each in said if each["event"] == "mirror_following"] == ["scan"]
    assert scene.differing() == {}


def test_a_server_that_becomes_a_replica_set_is_streamed(
    database: Database, mongo: Mongo, scene: Following, legacy: Legacy, services: Any, mongo_database: str
) -> None:
    """The same documents on a server with streams: what was read by time ends where the stream begins."""
    with MongoClient[dict[str, Any]](services.mongo_url, tz_aware=True) as client:
        there: Mongo = client[mongo_database]
        for collection in legacy.documents:
            there[collection].insert_many(mongo[collection].find())
        with following(database, there) as moved:
            moved.follower._stream_again_at = 0.0
            there["chats"].update_many({}, {"$set": {"name": "moved", "updatedAt": datetime.now(UTC)}})
            position = moved.follow()
            assert position.mode == "stream"
            assert moved.differing() == {}
            there["chats"].update_many({}, {"$set": {"name": "streamed"}})
            moved.follow()
            assert moved.differing() == {}
