"""Errors to Sentry, when SENTRY_DSN is set: what failed and where, never with how much or with which key (R24)."""

from typing import Any, Final

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration
from sentry_sdk.types import Event, Hint

from custody.settings.environment import FleetSettings
from custody.settings.redaction import is_key_name, is_money_name, walk, without_keys_and_money

SHUTDOWN_SECONDS: Final = 2  # a stopping process waits this long for what is still to be sent

# Written by the SDK, or an alarm's id: masking these would make the event unreadable, and they hold nothing to hide.
_OWN_FIELDS: Final = (
    "event_id", "timestamp", "start_timestamp", "level", "platform", "sdk", "release", "environment", "server_name",
    "fingerprint",
)  # fmt: skip


def scrub(event: Event, _hint: Hint) -> Event:
    """The event with key and money fields masked and every text cleaned (``before_send``)."""
    raw: dict[str, Any] = dict(event)
    own = {name: raw.pop(name) for name in _OWN_FIELDS if name in raw}
    raw.pop("modules", None)
    for exception in (raw.get("exception") or {}).get("values") or []:
        # The stack trace's file names, functions and line numbers are the program's, not the payments'.
        for frame in (exception.get("stacktrace") or {}).get("frames") or []:
            frame.pop("vars", None)
    cleaned: dict[str, Any] = walk(raw, hide=_hidden, text=without_keys_and_money)
    scrubbed: Any = cleaned | own
    return scrubbed


def _hidden(name: str) -> bool:
    # "value" is where Sentry keeps an exception's text; the text is cleaned instead.
    return name not in {"value", "values"} and (is_key_name(name) or is_money_name(name))


def init_sentry(settings: FleetSettings, *, process: str) -> bool:
    """Start Sentry for this process, tagged with its name. Returns whether SENTRY_DSN was set."""
    if settings.sentry_dsn is None:
        return False
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.sentry_environment,
        include_local_variables=False,
        include_source_context=False,
        send_default_pii=False,
        max_request_body_size="never",
        max_breadcrumbs=0,  # breadcrumbs carry queries and log lines
        traces_sample_rate=None,
        auto_session_tracking=False,
        server_name=process,
        before_send=scrub,
        # No integration that reads requests, queries or arguments.
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            ExcepthookIntegration(),
            ThreadingIntegration(),
            DedupeIntegration(),
            AtexitIntegration(callback=_say_nothing),
        ],
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    sentry_sdk.set_tag("process", process)
    return True


def _say_nothing(_pending: int, _timeout: float) -> None:
    """At exit Sentry flushes; its own message on standard output would be no log line."""
