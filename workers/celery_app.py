"""The Celery application: declared queues, late acknowledgement, no results, doorbells only.

Importing this module reads no settings; the configuration does, when it is first used. A worker or beat that lacks a
setting refuses to start and names it.
"""

import os
from pathlib import Path
from typing import Any, Final

import structlog
from celery import Celery, signals
from kombu.entity import Exchange, Queue

from custody.settings.environment import FleetSettings, SettingsError, settings
from schedules import beat_schedule
from tasks.doors import close_engines
from workers import health
from workers.broker_access import unacked_keys
from workers.queues import QUEUES, QueueSpec, queue
from workers.telemetry.logging import configure_logging
from workers.telemetry.process import begin
from workers.telemetry.sentry import init_sentry
from workers.wedge import watch_for_a_wedge

log = structlog.get_logger(__name__)

TASK_SOFT_SECONDS: Final = 45
TASK_HARD_SECONDS: Final = 60
WORKER_MEMORY_KIB: Final = 300_000  # a child above this is replaced after its task
WORKER_TASKS_PER_CHILD: Final = 10_000
SOFT_SHUTDOWN_SECONDS: Final = 30
BROKER_SOCKET_SECONDS: Final = 10  # BRPOP waits 1 s, so an answer takes at most this long on a live connection


def configuration() -> dict[str, Any]:
    """Every setting of Celery that the fleet relies on."""
    try:
        found: FleetSettings | None = settings()
    except SettingsError:
        found = None  # `celery inspect` and the like work without; a worker refuses in `_refuse_incomplete`
    return {
        "broker_url": found.broker_url.get_secret_value() if found and found.broker_url else None,
        "result_backend": None,  # state lives in Postgres
        "task_ignore_result": True,
        "task_track_started": False,
        # Queues: declared here and nowhere else. The nameless exchange delivers by the queue's name alone, so a
        # broker that came back empty needs no binding.
        "task_queues": [Queue(spec.name, Exchange(""), routing_key=spec.name) for spec in QUEUES],
        "task_default_queue": "housekeeping",  # Flower adds it to its list, so it is one of ours
        "task_create_missing_queues": False,
        "task_routes": {spec.doorbell: {"queue": spec.name} for spec in QUEUES},
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        # A message is given back when its process dies, and only then: rows say what is left to do. A worker whose
        # broker died before an acknowledgement may stay deaf (kombu 5.7); workers.wedge ends it.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,  # a doorbell is rung again by its schedule; giving it back could loop for ever
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": TASK_SOFT_SECONDS,
        "task_time_limit": TASK_HARD_SECONDS,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_max_tasks_per_child": WORKER_TASKS_PER_CHILD,
        "worker_max_memory_per_child": WORKER_MEMORY_KIB,
        "worker_send_task_events": True,  # what Flower shows comes from events alone
        "task_send_sent_event": False,
        # R24: nobody who reaches the broker may steer a worker (stop it, change its limits or its pool).
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5,
        "broker_transport_options": {
            **unacked_keys(found),
            "visibility_timeout": found.broker_visibility_timeout_seconds if found else 300,
            "unacked_restore_interval": 5,  # the defaults look for lost messages once in 100 s
            "unacked_restore_throttle": 1,
            "unacked_restore_limit": 200,
            "health_check_interval": 25,
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "socket_timeout": BROKER_SOCKET_SECONDS,
            "retry_on_timeout": False,
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
        },
        "beat_schedule": beat_schedule(),
        # In memory: every entry is an interval, so a restart has nothing to remember and no file to corrupt.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_max_loop_interval": 5,
        "timezone": "UTC",
        "enable_utc": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


app = Celery("fleet", include=[f"tasks.{spec.name}" for spec in QUEUES])
app.add_defaults(configuration)


def _refuse_incomplete(*names: str) -> FleetSettings:
    """The settings, or the end of the process with one sentence a missing one. (Celery swallows other errors here.)"""
    try:
        return settings().require(*names)
    except SettingsError as error:
        raise SystemExit(str(error)) from None


def _queue_of(options: dict[str, Any]) -> QueueSpec:
    wanted: object = options.get("queues")
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted or ())  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        (name,) = names
        return queue(name)
    except (ValueError, LookupError):
        raise SystemExit(
            "a worker serves one queue, because each has its own database role (R9): "
            f"celery -A workers.celery_app worker -Q NAME, with NAME one of {', '.join(s.name for s in QUEUES)}"
        ) from None


def _refuse_store(found: FleetSettings) -> None:
    """A domain that is set to ``pg`` and that nobody cut over ends the process with what to run (R10).

    A database that does not answer is asked again by the first ring.
    """
    if "pg" not in {found.repo_marketplace, found.repo_dispute}:
        return
    from sqlalchemy.exc import DBAPIError

    from custody.cutovers import require_beginnings
    from custody.store.engine import open_engine, transaction

    # Before the fork: disposed of, so that no child shares its connection.
    engine = open_engine(found.secret("database_url"), application="fleet-releases-start", pool_size=1)
    try:
        with transaction(engine) as connection:
            require_beginnings(connection, {"marketplace": found.repo_marketplace, "dispute": found.repo_dispute})
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    except DBAPIError as error:
        log.warning("store_not_asked", error=type(error.orig).__name__)
    finally:
        engine.dispose()


@signals.celeryd_init.connect
def _start_worker(options: dict[str, Any], **_: Any) -> None:
    spec = _queue_of(options)
    found = _refuse_incomplete("broker_url", "database_url")
    from urllib.parse import urlsplit

    role = urlsplit(found.secret("database_url")).username
    if role != spec.role:
        raise SystemExit(f"DATABASE_URL connects as {role}: expected {spec.role} for queue {spec.name} (R9)")
    user = urlsplit(found.secret("broker_url")).username
    if user not in (None, "", f"worker-{spec.name}"):
        raise SystemExit(f"BROKER_URL is user {user}'s: expected worker-{spec.name}'s for queue {spec.name} (R24)")
    if spec.name == "releases":
        _refuse_store(found)
    begin(found, f"worker-{spec.name}")
    # Events leave on standard error. What Celery itself prints to the other stream at a shutdown is no event.
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    health.alive()  # it takes messages; the rarest doorbell may ring a minute later
    watch_for_a_wedge(settings(), health.process_name().removeprefix("worker-"))


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    process = health.process_name()
    init_sentry(settings(), process=process)
    log.info("worker_process_ready", process=process)


@signals.worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    close_engines()


@signals.beat_init.connect
def _start_beat(**_: Any) -> None:
    found = _refuse_incomplete("broker_url")
    begin(found, "beat")
    log.info("beat_started", schedules=len(app.conf.beat_schedule))


@signals.after_task_publish.connect
def _rung(**_: Any) -> None:
    if health.process_name() == "beat":
        health.alive()


@signals.task_prerun.connect
def _bind(task_id: str, task: Any, **_: Any) -> None:
    structlog.contextvars.bind_contextvars(task_id=task_id, task=task.name)


@signals.task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    health.alive()


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    try:
        found = settings()
    except SettingsError:
        configure_logging()
        return
    configure_logging(level=found.log_level, log_format=found.log_format)
