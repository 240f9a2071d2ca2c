"""Structured logs on standard error: one line an event, with payment and task id, without keys.

The fleet's own events and those of the libraries (Celery, uvicorn, SQLAlchemy) leave by the same door.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import Processor

from custody.settings.redaction import is_key_name, walk, without_passwords

LogFormat = Literal["json", "console"]

_QUIET: Final = {
    # A doorbell is received and answered several times a second: the door says what it did, once.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.CRITICAL,  # the door has logged the failure with its cause
    "celery.beat": logging.WARNING,
    "celery.redirected": logging.WARNING,
    "flower.inspector": logging.ERROR,  # no worker answers commands (R24)
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "pymongo": logging.WARNING,
    "urllib3": logging.WARNING,
    "alembic": logging.WARNING,
}


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: mask key-like fields and the passwords in URLs, however deep."""
    cleaned: dict[str, Any] = walk(dict(event), hide=is_key_name, text=without_passwords)
    return cleaned


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]


def configure_logging(*, level: str = "info", log_format: LogFormat = "json") -> None:
    """Set up structlog and the standard library's logging. Called once at a process's start; repeatable."""
    rendering: list[Processor]
    if log_format == "json":
        rendering = [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        rendering = [redact, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    shared = _shared()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
