"""The ingress as a process: uvicorn around the application."""

from typing import Final

import structlog
import uvicorn

from custody.providers.interface import SecretsInFile
from custody.providers.table import PROVIDERS
from custody.settings.environment import FleetSettings
from workers.ingress.application import OpenDoor, build_application
from workers.ingress.health import DatabaseHealth
from workers.ingress.journal import Journal
from workers.ingress.rotation import open_secrets

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS: Final = 30  # a sender's next delivery comes within its retries' 21 s
GRACEFUL_SHUTDOWN_SECONDS: Final = 10  # twice the longest request
LISTEN_BACKLOG: Final = 1024  # connections that wait to be taken; the usual ceiling of the kernel is 4096
CONNECTIONS_MINIMUM: Final = 256  # open connections that are served even with a very short journal


def configure(settings: FleetSettings) -> uvicorn.Config:
    """The server's configuration. Raises SettingsError naming what is missing or wrong."""
    required = [
        provider.door.secrets.setting
        for provider in PROVIDERS
        if provider.door and isinstance(provider.door.secrets, SecretsInFile) and provider.door.secrets.required
    ]
    settings.require("database_url", *required)
    url = settings.secret("database_url")
    application = build_application(
        Journal(url, queue_limit=settings.ingress_queue_limit, batch_limit=settings.ingress_batch_limit),
        _open_doors(settings, url),
        DatabaseHealth(url),
        settings.ingress_body_limit_bytes,
    )
    return uvicorn.Config(
        application,
        host=settings.ingress_host,
        port=settings.ingress_port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        ws="none",
        lifespan="on",
        backlog=LISTEN_BACKLOG,
        # Bodies are held in memory: what waits for the journal, and as many that are being read.
        limit_concurrency=max(CONNECTIONS_MINIMUM, 2 * settings.ingress_queue_limit),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
    )


def _open_doors(settings: FleetSettings, url: str) -> list[OpenDoor]:
    """A door a provider, but for those whose secrets nobody set."""
    return [
        OpenDoor(provider.name, provider.door, open_secrets(provider.door.secrets, url, settings.path))
        for provider in PROVIDERS
        if provider.door
        and not (
            isinstance(provider.door.secrets, SecretsInFile)
            and getattr(settings, provider.door.secrets.setting) is None
        )
    ]


def serve(settings: FleetSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError before it listens if a setting is wrong."""
    server = uvicorn.Server(configure(settings))
    log.info("ingress_starts", host=settings.ingress_host, port=settings.ingress_port)
    server.run()
