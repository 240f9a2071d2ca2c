"""Either store killed and started again at random under load: what differs afterwards is equal soon, with no hand."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

import pytest
from bson import ObjectId
from pymongo.errors import PyMongoError
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_fixed

from custody.mirror import run_once
from custody.mirror.agreement import verify
from custody.mirror.backfill import backfill
from custody.store.engine import open_engine, transaction
from custody.store.mongo import open_mongo
from custody.store.outbox import mirror
from custody.store.upgrade import upgrade_database
from tests.counts import ONLY_LONG, Counts, declared
from tests.fleet_process import FleetProcess
from tests.following import Mongo
from tests.killable import Killable, killable
from tests.legacy_documents import Legacy, refer_among_themselves
from tests.state_folders import state_folder
from workers.embedded import mongo as embedded_mongo
from workers.embedded import postgres as embedded_postgres
from workers.embedded.role_passwords import ensure_role_passwords

SECONDS: Final = declared(600, 20)
LOOKS_MAXIMUM: Final = 60  # a second apart: what differs after a minute differs for good
USERS: Final = 12
SEED: Final = 20261128


@dataclass
class Stores:
    """Both servers, each with the documents of one marketplace, and the follower of this fleet."""

    postgres: Killable
    mongo_server: Killable
    mongo: Mongo
    admin: Engine
    mirror_role: Engine
    legacy: Legacy
    follower: FleetProcess
    writes: int = 0
    refused: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    kept = state_folder("killed", "FLEET_TEST_KILLED_DIR")
    with (
        TemporaryDirectory(dir=kept) as named,
        killable(embedded_postgres.SERVER, (folder := Path(named)) / "p") as postgres,
        killable(embedded_mongo.SERVER, folder / "m") as mongo_server,
    ):
        postgres.start()
        mongo_server.start()
        passwords = ensure_role_passwords(folder)
        admin = open_engine(postgres.url, application="test-killed")
        upgrade_database(admin, passwords)

        def url(role: str) -> str:
            return postgres.url.replace(
                postgres.url.partition("@")[0], f"postgresql://{role}:{(passwords / role).read_text().strip()}"
            )

        mirror_role = open_engine(url("fleet_mirror"), application="test-killed-mirror")
        with open_mongo(mongo_server.url, application="test-killed") as client:
            mongo = client["amanat"]
            legacy = Legacy(1, USERS)
            list(refer_among_themselves(legacy))
            for payment in legacy.documents["payments"]:
                payment.setdefault("blockchain", {})
                payment["blockchain"] = payment["blockchain"] or {}
            for collection, documents in legacy.documents.items():
                mongo[collection].insert_many(documents)
            backfill(admin, mongo)
            settings = {
                "DATABASE_URL": url("fleet_follower"), "MONGO_URL": mongo_server.url, "MONGO_DATABASE": "amanat",
                "FLEET_STATE_DIR": str(tmp_path),
            }  # fmt: skip
            follower = FleetProcess(["-m", "workers.follower"], settings, tmp_path / "follower.log")
            try:
                follower.wait_until_it_said("mirror_caught_up")
                yield Stores(postgres, mongo_server, mongo, admin, mirror_role, legacy, follower)
            finally:
                follower.kill()
                admin.dispose()
                mirror_role.dispose()


def backend(stores: Stores, drawn: random.Random) -> None:
    """One write of the backend's, to a document of any kind that it owns."""
    mongo, documents = stores.mongo, stores.legacy.documents
    now = datetime.now(UTC)
    number = drawn.randrange(10**9)

    def of(collection: str) -> ObjectId:
        return drawn.choice(documents[collection])["_id"]

    kind = drawn.randrange(7)
    if kind == 0:
        mongo["users"].update_one({"_id": of("users")}, {"$set": {"firstName": f"n{number}", "updatedAt": now}})
    elif kind == 1:
        change = {"title": f"t{number}", "status": drawn.choice(["pending", "delivered"]), "updatedAt": now}
        children = {"specifications": [{"key": f"k{number}", "value": "v"}]}
        mongo["purchaserequests"].update_one({"_id": of("purchaserequests")}, {"$set": {**change, **children}})
    elif kind == 2:
        mongo["payments"].update_one({"_id": of("payments")}, {"$set": {"metadata": {"n": number}, "updatedAt": now}})
    elif kind == 3:
        mongo["chats"].update_one({"_id": of("chats")}, {"$set": {"messages": [{"n": number}], "updatedAt": now}})
    elif kind == 4:
        made = {**documents["notifications"][0], "_id": ObjectId(), "title": f"n{number}", "updatedAt": now}
        mongo["notifications"].insert_one(made)
    elif kind == 5:
        mongo["notifications"].find_one_and_delete({"title": {"$regex": "^n[0-9]"}})
    else:
        mongo["disputes"].update_one({"_id": of("disputes")}, {"$set": {"evidence": [number], "updatedAt": now}})


def fleets(stores: Stores, drawn: random.Random) -> None:
    """One write of the fleet's, with what it asks of the mirror."""
    with transaction(stores.admin) as connection:
        if drawn.randrange(3):
            chosen = str(drawn.choice(stores.legacy.documents["payments"])["_id"])
            statement = "UPDATE public.payments SET confirmations = coalesce(confirmations, 0) + 1"
            collection = "payments"
        else:
            chosen = str(drawn.choice(stores.legacy.documents["purchaserequests"])["_id"])
            statement = "UPDATE public.purchase_requests SET status = 'seller_paid'"
            collection = "purchaserequests"
        row = connection.execute(
            text(f"{statement}, updated_at = clock_timestamp() WHERE legacy_object_id = :id RETURNING id"),
            {"id": chosen},
        ).one()
        mirror(connection, collection, row.id)


def load(stores: Stores, write: Callable[[Stores, random.Random], None], seed: int, pause: float) -> None:
    drawn = random.Random(seed)
    while not stores.stop.is_set():
        if not stores.go.wait(0.2):
            continue
        try:
            write(stores, drawn)
            stores.writes += 1
        except (PyMongoError, DBAPIError):
            stores.refused += 1
        stores.stop.wait(pause)


def mirroring(stores: Stores) -> None:
    """The mirror's worker, rung all the time."""
    while not stores.stop.is_set():
        with suppress(PyMongoError, DBAPIError):
            run_once(stores.mirror_role, stores.mongo, 100)
        stores.stop.wait(0.05)


def differing(stores: Stores) -> list[str]:
    """Documents that are not the same in both stores now, and those that are still on their way."""
    try:
        outcomes = verify(stores.admin, stores.mongo)
    except (PyMongoError, DBAPIError) as error:
        return [type(error).__name__]
    return [
        f"{each.collection} {look.object_id}: {look.verdict.value} {[f.name for f in look.fields]}"
        for each in outcomes
        for look, _ in each.looks
    ]


@ONLY_LONG
def test_a_store_that_dies_under_load_agrees_again_with_no_hand(stores: Stores, counts: Counts) -> None:
    drawn = random.Random(SEED)
    threads = [
        threading.Thread(target=load, args=(stores, backend, 1, 0.005)),
        threading.Thread(target=load, args=(stores, fleets, 2, 0.01)),
        threading.Thread(target=mirroring, args=(stores,)),
    ]
    for thread in threads:
        thread.start()
    kills, found, taken = {"postgres": 0, "mongo": 0}, 0, [0.0]
    until = monotonic() + SECONDS
    try:
        while monotonic() < until or 0 in kills.values():
            stores.go.set()
            stores.stop.wait(drawn.uniform(0.3, 2.0))
            # Never twice the same in a row, so that few rounds kill both.
            name = "mongo" if kills["mongo"] < kills["postgres"] else "postgres"
            server = stores.mongo_server if name == "mongo" else stores.postgres
            server.kill()
            kills[name] += 1
            stores.stop.wait(drawn.uniform(0.0, 1.0))
            server.start()
            stores.stop.wait(drawn.uniform(0.0, 0.5))
            stores.go.clear()
            returned = monotonic()
            first: list[list[str]] = []

            def look(seen: list[list[str]] = first) -> list[str]:
                seen.append(differing(stores))
                return seen[-1]

            try:
                Retrying(retry=retry_if_result(bool), stop=stop_after_attempt(LOOKS_MAXIMUM), wait=wait_fixed(1))(look)
            except RetryError:
                raise AssertionError(f"after {kills}: {first[-1][:10]}") from None
            found += len(first[0])
            taken.append(monotonic() - returned)
    finally:
        stores.stop.set()
        stores.go.set()
        for thread in threads:
            thread.join()
    with stores.admin.connect() as connection:
        gaps = connection.exec_driver_sql(
            "SELECT collection, op, reason FROM public.pg_dualwrite_gaps WHERE resolved_at IS NULL"
        ).all()
    assert gaps == []
    assert stores.follower.process.poll() is None
    counts("kills of a store", sum(kills.values()))
    counts("writes under load", stores.writes)
    counts("differences after a store's return", found)
    counts("most seconds until both were equal", round(max(taken)))
    sys.stdout.write(
        f"{kills['postgres']} kills of Postgres, {kills['mongo']} of MongoDB, {stores.writes} writes, {stores.refused} refused, "
        f"{found} differences found, equal within {max(taken):.1f} s\n"
    )
