"""What the backend writes to MongoDB is in Postgres: every collection, in both ways of finding it, without a loop."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from sqlalchemy import text

from custody.mirror import run_once
from custody.mirror.following import EVERYTHING, lag_seconds, positions
from custody.store.mongo import open_mongo
from tests.backfilling import fill, run, wrong
from tests.conftest import Database
from tests.following import Following, Mongo, following
from workers.embedded.services import Services


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-following") as client:
        yield client[mongo_database]


@pytest.fixture
def scene(database: Database, mongo: Mongo) -> Iterator[Following]:
    with following(database, mongo) as made:
        yield made


NOT_MADE = ("payments", "deriveddestinations", "trezoraccounts", "fundsledgerentries", "configsettings")


def test_every_collection_follows(database: Database, mongo: Mongo, scene: Following) -> None:
    scene.follow()
    legacy = fill(mongo, 8)
    scene.follow()
    scene.hasten()
    scene.follow()
    found = wrong(database, mongo)
    assert [each for each in found if not each.startswith(NOT_MADE)] == []
