"""Queue housekeeping: what is kept only for a while goes, what has waited too long is said aloud, registrations of
Trezors are judged, new destinations are audited, alarms are delivered, quotes are made, and Request Network is asked for
payments whose webhook was lost: a server or a node that hangs holds up nobody's money here."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import sentry_sdk
import structlog
from celery import shared_task
from sqlalchemy import Engine, text

from custody.settings.environment import FleetSettings
from custody.store.engine import transaction
from custody.store.expiry import purge_expired
from custody.store.schedule_runs import ALARMS_SCHEDULE, AUDIT_SCHEDULE, PAYMENTS_SCHEDULE, QUOTES_SCHEDULE, purge
from tasks.doors import Door, Step

if TYPE_CHECKING:
    from custody.alarms import Alarm

log = structlog.get_logger(__name__)

SCHEDULE_RUNS_KEPT: Final = timedelta(hours=1)
CHALLENGES_KEPT: Final = timedelta(days=1)  # of logins: what anybody may ask for does not fill the database
PURGE_LIMIT: Final = 5_000  # an hour of every schedule is about 12,000 rows
OUTBOX_PATIENCE: Final = timedelta(seconds=60)  # the relay takes 0.2 s; older means that it does not run

_OLDEST_UNRUNG = text(
    """
    SELECT least(
        (SELECT min(created_at) FROM fleet.outbox WHERE rung_at IS NULL),
        (SELECT min(e.created_at) FROM public.funds_ledger_entries e
         WHERE e.tx_id >= (SELECT next_tx FROM fleet.mirror_cursor) AND isfinite(e.created_at)))
    """
)


def tidy(engine: Engine, now: datetime) -> int:
    """Purge old claims of schedules and what MongoDB's TTL drops there, and alarm when the relay rings no more. Returns the rows deleted."""
    from custody.ledger.seal_lag import seal_lag
    from custody.sessions import purge_challenges

    with transaction(engine) as connection:
        purged = purge(connection, now=now, older_than=SCHEDULE_RUNS_KEPT, limit=PURGE_LIMIT)
        purged += purge_challenges(connection, now - CHALLENGES_KEPT)
        purged += purge_expired(connection, now=now, limit=PURGE_LIMIT)
        oldest: datetime | None = connection.execute(_OLDEST_UNRUNG).scalar()
        unsealed = seal_lag(connection, now)
    if oldest is not None and now - oldest > OUTBOX_PATIENCE:
        log.error(
            "outbox_not_rung",
            since=oldest.isoformat(),
            unblocks="see whether the relay process runs, and what transaction stays open",
        )
        sentry_sdk.capture_message("the outbox is not being rung", level="error")
    if unsealed is not None:
        # The sealer says so itself, with more to say; but not when it does not run.
        log.error(
            "ledger_not_sealed",
            lag_seconds=int(unsealed.total_seconds()),
            unblocks="see whether the sealer process runs, and what it says",
        )
        sentry_sdk.capture_message("the ledger is not being sealed", level="error")
    return purged


def build(engine: Engine, settings: FleetSettings) -> Step:
    """One step: registrations that wait are judged, then ``tidy`` at the present time."""
    from custody.policy import Genesis, SignedFolder, read_genesis
    from custody.registration import judge_registrations
    from custody.registration.texts import place_of

    place = place_of(settings)

    def genesis() -> Genesis | None:
        if settings.policy_dir is None and not settings.trezor_safekeeping_required:
            return None
        # Without it an approver's key could be registered as a user's (R6).
        settings.require("policy_dir", "genesis_hash")
        signed = SignedFolder(settings.path("policy_dir"), settings.genesis_hash or "")
        with transaction(engine) as connection:
            return read_genesis(connection, signed, datetime.now(UTC)).genesis

    return lambda: judge_registrations(engine, place, genesis) + tidy(engine, datetime.now(UTC))


def build_audit(engine: Engine, _settings: FleetSettings) -> Step:
    """One step: destinations that are new or changed are derived again."""
    from custody.destinations.audit import audit_destinations

    return lambda: audit_destinations(engine)


def say_alarm(alarm: "Alarm") -> None:
    """An alarm in the log and to Sentry, where the same alarm twice is one event's group."""
    log.error("alarm", alarm_id=str(alarm.id), kind=alarm.kind, payment_id=alarm.payment, sentence=alarm.said)
    with sentry_sdk.new_scope() as scope:
        scope.fingerprint = ["alarm", str(alarm.id)]
        scope.set_tag("alarm_kind", alarm.kind)
        scope.set_tag("alarm_id", str(alarm.id))
        sentry_sdk.capture_message(alarm.said, level="error")


def build_alarms(engine: Engine, settings: FleetSettings) -> Step:
    """One step: alarms that nobody was told of are said, and the next batch goes to the webhook, where one is set."""
    from custody.alarms.delivering import deliver, say

    if settings.alarm_webhook_url is None and settings.alarm_webhook_secret_file is None:
        return lambda: say(engine, say_alarm)
    from custody.alarms.webhook import AlarmWebhook, read_alarm_secret

    settings.require("alarm_webhook_url", "alarm_webhook_secret_file")
    webhook = AlarmWebhook(
        settings.secret("alarm_webhook_url"),
        read_alarm_secret(settings.path("alarm_webhook_secret_file")),
        environment=settings.sentry_environment,
    )
    return lambda: say(engine, say_alarm) + deliver(engine, webhook, lambda: datetime.now(UTC))


def build_reconciliation(engine: Engine, settings: FleetSettings) -> Step:
    """One step: a page of Request Network's payments. Nothing at all unless its key and its address are set."""
    if settings.request_network_api_key_file is None and settings.request_network_api_url is None:
        return lambda: 0
    from custody.providers.request_network.payments_api import Pace, PaymentsApi, read_api_key
    from custody.providers.request_network.reconciliation import reconcile

    settings.require("request_network_api_key_file", "request_network_api_url")
    api = PaymentsApi(
        settings.request_network_api_url or "",
        read_api_key(settings.path("request_network_api_key_file")),
        Pace(settings.request_network_api_interval_seconds),
    )
    return lambda: reconcile(engine, api, lambda: datetime.now(UTC))


def build_quotes(engine: Engine, settings: FleetSettings) -> Step:
    """One step: quotes that are due. Nothing at all unless ORACLE_QUOTING_ENABLED. Raises SettingsError."""
    if not settings.oracle_quoting_enabled:
        return lambda: 0
    from custody.quotes import Bounds
    from custody.quotes.quoting import open_sources, run_once

    sources = open_sources(settings, engine, accepts=True)
    bounds = Bounds.of(settings)
    return lambda: run_once(
        engine,
        sources,
        bounds,
        lambda: datetime.now(UTC),
        settings.claim_limit,
        attempts_limit=settings.work_attempts_limit,
    )


_door = Door("housekeeping", build)
_audit = Door("housekeeping", build_audit)
_alarms = Door("housekeeping", build_alarms)
_reconciliation = Door("housekeeping", build_reconciliation)
_quotes = Door("housekeeping", build_quotes)
_BY_SCHEDULE: Final = {
    ALARMS_SCHEDULE: _alarms,
    AUDIT_SCHEDULE: _audit,
    PAYMENTS_SCHEDULE: _reconciliation,
    QUOTES_SCHEDULE: _quotes,
}


@shared_task(name="housekeeping.tidy")
def tidy_up(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _BY_SCHEDULE.get(schedule or "", _door).answer(schedule, period)
