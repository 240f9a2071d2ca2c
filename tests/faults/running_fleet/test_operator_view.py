"""What an operator sees of a running fleet, and what one change or one dead MongoDB does to payments under way."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from custody.settings.thresholds import set_threshold
from custody.store.engine import open_engine, transaction
from tests.counts import ONLY_LONG, declared
from tests.faults.running_fleet.conftest import PAYMENTS, STATE_DIR, Killer, pids
from workers.demo.fleet import DevelopmentFleet
from workers.demo.provision import DEVELOPMENT_THRESHOLD_BLOCKS
from workers.demo.run import Demo, DemoResult
from workers.demo.stages import STAGES, Pace
from workers.processes import PROCESSES
from workers.queues import QUEUES

pytestmark = pytest.mark.timeout(declared(1_200, 420))

SERVERS = ("postgres", "valkey", "mongo", "anvil")
THRESHOLD = "confirmation_threshold:31337"
UNREACHED = 5_000  # blocks: over an hour of this chain
RAISED = 5


def fleet_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``fleet ARGUMENTS`` as a person types it in a new shell."""
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env={name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        | {"FLEET_STATE_DIR": str(STATE_DIR), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def status() -> dict[str, dict[str, Any]]:
    answer = fleet_command("status", "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return {row["name"]: row for row in json.loads(answer.stdout)["services"]}


def test_status_names_every_server_and_process_with_its_pid_and_where_it_is(running_fleet: DevelopmentFleet) -> None:
    found = status()
    assert list(found)[:4] == list(SERVERS)
    assert set(found) == {*SERVERS, *(process.name for process in PROCESSES)}
    for row in found.values():
        assert set(row) == {"name", "url", "pid", "health"}
        assert row["health"] == "ok"
        os.kill(row["pid"], 0)
    assert found["ingress"]["url"] == running_fleet.ingress_url
    assert found["signer-api"]["url"] == running_fleet.signer_api_url
    assert found["flower"]["url"] == running_fleet.flower_url
    assert "***" in found["postgres"]["url"]


@ONLY_LONG
def test_up_twice_touches_nothing_that_runs(running_fleet: DevelopmentFleet) -> None:
    before = {name: row["pid"] for name, row in status().items()}
    again = fleet_command("up")
    assert again.returncode == 0, again.stdout + again.stderr
    assert running_fleet.flower_url in again.stdout
    assert {name: row["pid"] for name, row in status().items()} == before


def test_flower_shows_all_queues(running_fleet: DevelopmentFleet) -> None:
    user, password = running_fleet.provisioned.secrets.flower.read_text().strip().split(":")
    with httpx.Client(base_url=running_fleet.flower_url, trust_env=False) as client:
        assert client.get("/broker").status_code == 401
        client.auth = (user, password)
        shown = {queue["name"] for queue in client.get("/api/queues/length").json()["active_queues"]}
        assert shown == {queue.name for queue in QUEUES}
        page = client.get("/broker").text
        assert all(queue.name in page for queue in QUEUES)


@dataclass(frozen=True)
class DemoRun:
    """`fleet demo --keep` with two payments on the running fleet."""

    ran: "subprocess.CompletedProcess[str]"
    said: dict[str, Any]
    pids: tuple[dict[str, int | None], dict[str, int | None]]
    """Of every server and process, before and after."""


@pytest.fixture(scope="module")
def demo(running_fleet: DevelopmentFleet, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    made = tmp_path_factory.mktemp("demo") / "demo.json"
    before = pids()
    ran = fleet_command("demo", "--keep", "--payments", "2", "--json", str(made))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return DemoRun(ran, json.loads(made.read_text()), (before, pids()))


def test_the_command_says_what_it_did(running_fleet: DevelopmentFleet, demo: DemoRun) -> None:
    said, ran = demo.said, demo.ran
    assert (said["payments"], said["released"], said["books_equal_chain"]) == (2, 2, True)
    assert said["seconds"] > 0
    assert said["entries"] == {"payment_detected": 2, "hold": 2, "adjustment": 2, "release": 4}
    fleet = running_fleet.provisioned
    assert said["addresses"] == {"treasury": fleet.treasury, "gas_payer": fleet.gas_payer}
    assert said["flower_url"] == running_fleet.flower_url
    assert running_fleet.flower_url in ran.stdout
    assert ran.stdout.count("2 of 2") >= len(STAGES)
    # What runs is used, and --keep leaves it running.
    assert demo.pids[0] == demo.pids[1]
    assert set(demo.pids[0]) >= {process.name for process in PROCESSES}


def require_whole(*commands: str) -> None:
    """Books equal chain, and nobody's hand is suspected in what the fleet wrote and the follower read back."""
    for command in commands:
        told = fleet_command(*command.split())
        assert told.returncode == 0, told.stdout + told.stderr


def test_the_books_are_whole(demo: DemoRun) -> None:
    assert demo.said["books_equal_chain"]
    require_whole("gaps list")


@ONLY_LONG
def test_after_every_server_and_worker_died_once_the_books_are_whole(survived: tuple[DemoResult, Killer]) -> None:
    assert (survived[0].released, survived[0].books_equal_chain) == (PAYMENTS, True)
    require_whole("books", "gaps list", "mirror following")


def test_explain_tells_a_released_payment_from_its_webhook_to_its_signed_transaction(
    demo: DemoRun,
) -> None:
    payment = demo.said["payment_ids"][0]
    told = fleet_command("explain", payment, "--json")
    assert told.returncode == 0, told.stderr
    story = json.loads(told.stdout)
    assert (story["status"], story["escrow_state"], story["waits"]) == ("completed", "released", [])
    steps = [happening["step"] for happening in story["happenings"]]
    first = {step: steps.index(step) for step in reversed(steps)}
    # The watcher may see the coins before their webhook comes.
    assert max(first["webhook"], first["ledger"]) < first["release"], steps
    everything = "\n".join(happening["what"] for happening in story["happenings"])
    for words in (
        "payment.confirmed",
        "payment_detected : seen",
        "hold : deep",
        "adjustment : sweep",
        "release : reserve",
        "handed out to the signer",
        "signed by the treasury device",
        "sent as 0x",
        "release : final",
    ):
        assert words in everything, f"{words!r} is not in:\n{everything}"


@ONLY_LONG
def test_a_threshold_set_by_command_binds_in_the_running_worker(running_fleet: DevelopmentFleet) -> None:
    admin = open_engine(running_fleet.provisioned.services.database_admin_url, application="test-threshold")
    lowered: list[str] = []

    def lower(stage: str, count: int) -> None:
        if stage == "detected" and count and not lowered:
            said = fleet_command("settings", "set", THRESHOLD, str(RAISED), "--by", "tester", "--reason", "it is slow")
            assert said.returncode == 0, said.stderr
            lowered.append(said.stdout)

    try:
        with transaction(admin) as connection:
            unreached = set_threshold(connection, 31337, UNREACHED, floor_blocks=1, by="tester", reason="never")
        result = Demo(running_fleet, lower, Pace(stall_seconds=60)).run(1)
        with admin.connect() as connection:
            evidence: dict[str, Any] = connection.execute(
                text(
                    "SELECT metadata FROM public.funds_ledger_entries "
                    "WHERE payment_id = CAST(:id AS uuid) AND entry_type = 'hold'"
                ),
                {"id": result.payment_ids[0]},
            ).scalar_one()
    finally:
        with transaction(admin) as connection:
            set_threshold(
                connection, 31337, DEVELOPMENT_THRESHOLD_BLOCKS, floor_blocks=1, by="tester", reason="as before"
            )
        admin.dispose()
    assert result.released == 1
    assert evidence["threshold"] == RAISED
    assert evidence["history_id"] != str(unreached.history_id)
    assert str(evidence["history_id"]) in lowered[0]


def test_each_line_of_a_process_s_log_is_an_event_and_names_its_payment_and_task(
    demo: DemoRun,
) -> None:
    logs = STATE_DIR / "logs"
    for process in PROCESSES:
        for line in (logs / f"{process.name}.log").read_text().splitlines():
            event = json.loads(line)
            assert {"event", "level", "at"} <= set(event), line
    payment = demo.said["payment_ids"][0]
    for process in ("worker-webhooks", "worker-confirmations", "worker-releases"):
        events = _events(logs / f"{process}.log")
        assert any(event.get("payment_id") == payment and event.get("task_id") for event in events), process


def _events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
