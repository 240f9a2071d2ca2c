"""Doorbells on a real Valkey: relay, worker and beat as processes, and what killing them changes (nothing)."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pymongo
import pytest
from bson import ObjectId

from custody.store.engine import transaction
from custody.store.outbox import mirror, ring
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.fleet_process import FleetProcess, wait_for
from tests.marketplace import Marketplace
from tests.valkey_server import ValkeyServer
from workers.embedded.services import Services
from workers.processes import process


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    directory = tmp_path / "valkey"
    directory.mkdir()
    server = ValkeyServer(directory)
    server.start()
    yield server
    server.stop()


class Fleet:
    """Starts the fleet's processes against one database, one Valkey and one MongoDB; ends them with the test."""

    def __init__(self, database: Database, valkey: ValkeyServer, services: Services, mongo: str, folder: Path) -> None:
        self.database, self.valkey, self.services = database, valkey, services
        self.mongo, self.folder = mongo, folder
        self.running: list[FleetProcess] = []

    def _start(self, name: str, arguments: list[str], role: str | None) -> FleetProcess:
        environment = {
            "FLEET_STATE_DIR": str(self.folder),
            "BROKER_URL": self.valkey.process_url(name),
            "MONGO_URL": self.services.mongo_url,
            "MONGO_DATABASE": self.mongo,
            "BROKER_VISIBILITY_TIMEOUT_SECONDS": "10",
        }
        if role:
            environment["DATABASE_URL"] = self.database.url(role)
        process = FleetProcess(arguments, environment, self.folder / f"{name}-{len(self.running)}.log")
        self.running.append(process)
        return process

    def worker(self, queue: str = "mirror", *, role: str | None = None) -> FleetProcess:
        chosen = process(f"worker-{queue}")
        return self._start(chosen.name, list(chosen.arguments), role or chosen.role)

    def relay(self) -> FleetProcess:
        return self._start("relay", list(process("relay").arguments), "fleet_relay")

    def beat(self) -> FleetProcess:
        return self._start("beat", list(process("beat").arguments), None)

    def count(self, statement: str) -> int:
        return Marketplace(self.database).execute(f"SELECT count(*) AS n FROM {statement}")[0].n


@pytest.fixture
def fleet(
    database: Database, valkey: ValkeyServer, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[Fleet]:
    made = Fleet(database, valkey, services, mongo_database, tmp_path)
    yield made
    assert valkey.denied() == []  # R24: each process's own user is enough for all it does
    for started in made.running:
        started.kill()


@pytest.fixture
def payments(fleet: Fleet) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](fleet.services.mongo_url) as client:
        yield client[fleet.mongo]["payments"]


def ask_for_mirror(fleet: Fleet, payment: UUID) -> ObjectId:
    with transaction(fleet.database.engine("fleet_watcher")) as connection:
        mirror(connection, "payments", payment)
    row = Marketplace(fleet.database).execute(
        "SELECT legacy_object_id FROM public.payments WHERE id = :id", id=payment
    )[0]
    return ObjectId(row.legacy_object_id)


def test_a_row_becomes_a_doorbell_and_the_doorbell_runs_the_task(fleet: Fleet, payments: Any) -> None:
    relay, worker = fleet.relay(), fleet.worker()
    worker.wait_until_it_said("worker_process_ready")
    object_id = ask_for_mirror(fleet, Marketplace(fleet.database).payment(Decimal("12.5")))
    document = wait_for(lambda: payments.find_one({"_id": object_id}))
    assert str(document["amount"]["amount"]) == "12.5"
    wait_for(lambda: fleet.count("fleet.outbox") == 0)
    wait_for((fleet.folder / "health" / "worker-mirror").exists)
    wait_for((fleet.folder / "health" / "relay").exists)
    assert relay.terminate() == 0
    assert worker.terminate() == 0


def test_the_relay_outlives_its_broker_and_loses_no_row(fleet: Fleet) -> None:
    relay = fleet.relay()
    relay.wait_until_it_said("relay_started")
    fleet.valkey.kill()
    with transaction(fleet.database.engine("fleet_watcher")) as connection:
        for _ in range(10):
            ring(connection, "confirmations")
        ring(connection, "sweeps")
    relay.wait_until_it_said("broker_away")
    assert fleet.count("fleet.outbox") == 11
    fleet.valkey.start()
    wait_for(lambda: fleet.count("fleet.outbox") == 0)
    client = fleet.valkey.client()
    # One doorbell a queue, however many rows asked for it.
    assert (client.llen("confirmations"), client.llen("sweeps"), client.llen("releases")) == (1, 1, 0)
    client.close()
    assert relay.log.read_text().count("broker_away") == 1 + relay.log.read_text().count("relay_recovered")
    assert relay.terminate() == 0


@ONLY_LONG
def test_two_beats_ring_twice_and_each_slot_is_answered_once(fleet: Fleet) -> None:
    beats = [fleet.beat(), fleet.beat()]
    client = fleet.valkey.client()
    # Nobody answers yet: each beat rings once a second.
    wait_for(lambda: client.llen("confirmations") >= 4 and client.llen("mirror") >= 2)
    fleet.worker("mirror").wait_until_it_said("worker_process_ready")
    wait_for(lambda: fleet.count("fleet.schedule_runs WHERE name = 'mirror-due'") >= 2)
    for beat in beats:
        assert beat.process.poll() is None
        assert "Traceback" not in beat.log.read_text()
    wait_for(lambda: client.llen("mirror") == 0)
    client.close()
    said = (fleet.folder / "worker-mirror-2.log").read_text()
    assert "step_failed" not in said


@ONLY_LONG
def test_a_worker_killed_in_the_middle_of_its_task_leaves_nothing_undone(fleet: Fleet, payments: Any) -> None:
    fleet.relay()
    worker = fleet.worker()
    worker.wait_until_it_said("worker_process_ready")
    payment = Marketplace(fleet.database).payment()
    with fleet.database.engine().connect() as blocker:
        blocker.exec_driver_sql("LOCK TABLE public.id_map IN EXCLUSIVE MODE")
        object_id = ask_for_mirror(fleet, payment)
        waiting = (
            "pg_stat_activity WHERE application_name = 'fleet-mirror' AND wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        wait_for(lambda: fleet.count(waiting) == 1)
        worker.kill()
        blocker.rollback()
    assert payments.find_one({"_id": object_id}) is None
    fleet.worker()
    assert wait_for(lambda: payments.find_one({"_id": object_id}))
    wait_for(lambda: fleet.count("fleet.outbox") == 0)


@ONLY_LONG
def test_a_worker_without_settings_or_with_another_role_refuses_and_says_what_is_missing(fleet: Fleet) -> None:
    stranger = fleet.worker("mirror", role="fleet_sweeps")
    assert stranger.process.wait(timeout=60) != 0
    assert "DATABASE_URL connects as fleet_sweeps: expected fleet_mirror" in stranger.log.read_text()
    bare = FleetProcess(
        ["-m", "celery", "-A", "workers.celery_app", "worker", "-Q", "mirror"], {}, fleet.folder / "bare.log"
    )
    assert bare.process.wait(timeout=60) != 0
    said = bare.log.read_text()
    assert "BROKER_URL is not set" in said
    assert "DATABASE_URL is not set" in said
