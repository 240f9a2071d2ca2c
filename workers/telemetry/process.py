"""How every long-running process begins: its logs, its Sentry, its name."""

from custody.settings.environment import FleetSettings
from workers import health
from workers.telemetry.logging import configure_logging
from workers.telemetry.sentry import init_sentry


def begin(settings: FleetSettings, process: str) -> None:
    """Structured logs from the first line on, errors to Sentry when SENTRY_DSN is set, signs of life under that name."""
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    init_sentry(settings, process=process)
    health.name_process(process)
