"""One table of queues: Celery, the schedules, the outbox and the database agree with it."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, get_args

import pytest

from custody.store.outbox import Queue
from custody.store.roles import PROCESS_ROLES
from schedules import SCHEDULES, beat_schedule
from workers.celery_app import app
from workers.queues import BY_NAME, QUEUES, queue


def test_every_queue_of_the_outbox_has_a_worker_and_a_role() -> None:
    assert list(BY_NAME) == list(get_args(Queue))
    assert {spec.role for spec in QUEUES} <= set(PROCESS_ROLES)
    with pytest.raises(LookupError, match="there are: webhooks"):
        queue("mails")


def test_celery_knows_these_queues_and_makes_no_other() -> None:
    conf: Any = app.conf
    assert [declared.name for declared in conf.task_queues] == list(BY_NAME)
    assert conf.task_create_missing_queues is False
    assert conf.task_default_queue in BY_NAME
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    assert ours == {spec.doorbell for spec in QUEUES}


def test_a_lost_worker_gives_its_message_back_and_nothing_else_is_trusted_to_celery() -> None:
    conf: Any = app.conf
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)
    assert (conf.accept_content, conf.task_serializer, conf.result_backend) == (["json"], "json", None)
    assert conf.worker_enable_remote_control is False
    longest = conf.task_time_limit
    assert conf.task_soft_time_limit < longest < conf.broker_transport_options["visibility_timeout"]


def test_each_schedule_rings_its_queue_s_doorbell_and_its_rings_expire() -> None:
    for entry in SCHEDULES:
        assert entry.task == BY_NAME[entry.queue].doorbell
        assert entry.why
    assert {entry.queue for entry in SCHEDULES} == set(BY_NAME)
    assert len({entry.name for entry in SCHEDULES}) == len(SCHEDULES)
    for name, made in beat_schedule().items():
        assert made["kwargs"] == {"schedule": name, "period": int(made["schedule"])}
        assert made["schedule"] < made["options"]["expires"] <= 3 * max(60, made["schedule"])


NEEDS_NO_NODE = ("webhooks", "mirror", "housekeeping")
BUILD = """
import workers.celery_app
workers.celery_app.app.loader.import_default_modules()
from custody.settings.environment import load_settings
from custody.store.engine import open_engine
import tasks.{queue}
engine = open_engine("postgresql://nobody@127.0.0.1:1/nothing", application="test")
tasks.{queue}.build(engine, load_settings(mongo_url="mongodb://127.0.0.1:1/"))
"""
PROGRAMS = {f"worker {name}": BUILD.format(queue=name) for name in NEEDS_NO_NODE} | {
    "relay": "import workers.relay",
    "beat": "import workers.celery_app; workers.celery_app.app.Beat; workers.celery_app.app.conf.beat_schedule",
    "flower": "import workers.flower, flower.command",
    "ingress": "import workers.ingress.__main__, workers.ingress.server, workers.ingress.journal",
    "signer API": "import workers.signer_api.__main__, workers.signer_api.application",
    "fleet status": "import workers.cli.system, workers.fleet_status",
}


def who_imports_web3(programs: Mapping[str, str]) -> str:
    """The first of these programs, run one after the other in one process, after which web3 is there; empty for none."""
    code = "import sys\n" + "\n".join(
        f"{source}\nif 'web3' in sys.modules: sys.exit(print({name!r}))" for name, source in programs.items()
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.strip()


def test_what_talks_to_no_node_imports_no_web3() -> None:
    assert who_imports_web3(PROGRAMS) == ""


def test_what_talks_to_nodes_would_have_been_noticed() -> None:
    programs = {"relay": PROGRAMS["relay"], "a node's client": "import web3"}
    assert who_imports_web3(programs) == "a node's client"
