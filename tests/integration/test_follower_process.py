"""The follower as a process: either store away, killed, ended when asked; what `fleet` says of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.settings.environment import settings
from custody.store.mongo import open_mongo
from tests.backfilling import fill, run
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.fleet_process import FleetProcess, wait_for
from tests.following import Mongo
from tests.mongo_proxy import MongoProxy
from workers.cli import gaps as gaps_command
from workers.cli import mirror as mirror_command
from workers.embedded.services import Services
from workers.health import said_by


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-follower") as client:
        yield client[mongo_database]


@pytest.fixture
def door(services: Services) -> Iterator[MongoProxy]:
    made = MongoProxy(services.mongo_url)
    yield made
    made.close()


class Process:
    """A follower and what it has brought over."""

    def __init__(self, database: Database, mongo: Mongo, door: MongoProxy, folder: Path) -> None:
        self._database = database
        self._mongo = mongo
        self._settings = {
            "DATABASE_URL": database.url("fleet_follower"), "MONGO_URL": door.url, "MONGO_DATABASE": mongo.name,
            "FLEET_STATE_DIR": str(folder),
        }  # fmt: skip
        self._folder = folder
        self._started = 0
        self.start()

    def start(self) -> None:
        self._started += 1
        log = self._folder / f"follower-{self._started}.log"
        self.process = FleetProcess(["-m", "workers.follower"], self._settings, log)
        self.process.wait_until_it_said("mirror_following")

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.process.log.read_text().splitlines()]

    def write(self, name: str) -> None:
        self._mongo["categories"].update_many({}, {"$set": {"description": name}})

    def has_followed(self, name: str) -> bool:
        with self._database.engine().connect() as connection:
            found = connection.exec_driver_sql("SELECT DISTINCT description FROM public.categories").scalars().all()
        return list(found) == [name]

    def wait_until_followed(self, name: str) -> None:
        wait_for(lambda: self.has_followed(name))


@ONLY_LONG
def test_a_follower_goes_on_after_every_break(
    database: Database, mongo: Mongo, door: MongoProxy, tmp_path: Path
) -> None:
    fill(mongo, 8)
    run(database, mongo, batch=500)
    follower = Process(database, mongo, door, tmp_path)
    try:
        follower.write("first")
        follower.wait_until_followed("first")
        wait_for(lambda: "stream, 0.0 s behind" in said_by("follower", tmp_path))
        # MongoDB away.
        door.shut()
        follower.write("while it was away")
        wait_for(lambda: "mongo_away" in follower.events())
        door.open()
        follower.wait_until_followed("while it was away")
        wait_for(lambda: "follower_recovered" in follower.events())
        # Every session of it in Postgres ended, as a restart of the server does.
        follower.write("before")
        with database.engine().connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet-follower'"
            )
        follower.write("after")
        follower.wait_until_followed("after")
        # Killed, and started again.
        follower.process.kill()
        follower.write("while it was dead")
        follower.start()
        follower.wait_until_followed("while it was dead")
        assert follower.process.terminate() == 0
        assert follower.events()[-1] == "follower_stopped"
    finally:
        follower.process.kill()


@pytest.fixture
def configured(database: Database, mongo: Mongo, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "DATABASE_URL": database.url("fleet_operator"),
        "DATABASE_ADMIN_URL": database.url(),
        "MONGO_URL": services.mongo_url,
        "MONGO_DATABASE": mongo.name,
        "COLUMNS": "250",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    settings.cache_clear()


def fleet(*arguments: str) -> Result:
    app = typer.Typer()
    mirror_command.register(app)
    gaps_command.register(app)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("configured")
def test_an_operator_sees_how_far_it_is_and_replays_what_waits(database: Database, mongo: Mongo) -> None:
    from tests.following import following

    nothing = fleet("mirror", "following")
    assert nothing.exit_code == 1
    assert "fleet run follower" in nothing.output
    made = fill(mongo, 6)
    run(database, mongo, batch=500)
    with following(database, mongo) as scene:
        scene.follow()
        late: dict[str, Any] = {**made.documents["addresses"][0], "isPrimary": False}
        user = mongo["users"].find_one({"_id": made.documents["users"][0]["_id"]}) or {}
        address = {**late, "_id": made.documents["addresses"][0]["_id"], "userId": user["_id"], "city": "moved"}
        # A user that is nowhere, and then is.
        missing = {
            **user,
            "_id": type(user["_id"])(),
            "email": "late@example.org",
            "referralCode": "late",
            "passkeys": [],
        }
        mongo["addresses"].replace_one({"_id": address["_id"]}, {**address, "userId": missing["_id"]})
        scene.follow()
        shown = fleet("mirror", "following")
        assert shown.exit_code == 0, shown.output
        assert "everything" in shown.output
        assert "looked at again: 1 refused" in shown.output
        said = json.loads(fleet("mirror", "following", "--json").stdout)
        everything = next(each for each in said["following"] if each["name"] == "everything")
        assert (everything["mode"], everything["caught_up"], everything["seconds_behind"]) == ("stream", True, 0.0)
        assert said["looked_at_again"] == {"refused": 1}
        stays = fleet("gaps", "replay")
        assert stays.exit_code == 1
        assert f"users {missing['_id']} was not brought over yet" in stays.output
        mongo["users"].insert_one(missing)
        scene.follow()
        assert fleet("gaps", "replay").exit_code == 0
        assert scene.gaps() == []
        assert scene.differing() == {}
        # A security gap is not an operator's to replay.
        payment = made.documents["payments"][0]
        mongo["payments"].update_one(
            {"_id": payment["_id"]}, {"$set": {"currency": 1, "provider": "shkeeper", "amount.currency": "DAI"}}
        )
        scene.follow()
        (gap,) = scene.gaps()
        refused = fleet("gaps", "replay", str(gap.id))
        assert refused.exit_code == 2
        assert "two persons" in refused.output
        silent = datetime(2026, 1, 1, tzinfo=UTC)
        scene.execute("UPDATE fleet.mirror_following SET updated_at = :at", at=silent)
        assert fleet("mirror", "following").exit_code == 1
