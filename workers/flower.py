"""Flower: what the queues and workers do, behind a password, on loopback unless told otherwise, and read-only.

With remote control off (R24) Flower learns everything from events; it lists the declared queues from the first second.
"""

import os
import sys
from typing import Final

from custody.settings.environment import FleetSettings, SettingsError, load_settings, read_secret_file
from workers.telemetry.process import begin

INSPECT_MILLISECONDS: Final = 100  # how long a page waits for answers to commands that no worker takes
TASKS_KEPT: Final = 10_000  # in memory; a ring a second and queue is two hours


def environment(settings: FleetSettings) -> dict[str, str]:
    """Flower's own settings, as its environment variables: the password is in no argument list.

    Raises SettingsError when the password file is missing, readable by others, or not USER:PASSWORD.
    """
    path = settings.path("flower_basic_auth_file")
    credentials = read_secret_file(path, what="FLOWER_BASIC_AUTH_FILE")
    user, colon, password = credentials.partition(":")
    if not (user and colon and password) or "," in credentials or "\n" in credentials:
        raise SettingsError(f"FLOWER_BASIC_AUTH_FILE: {path} must hold one line USER:PASSWORD without a comma")
    return {
        "FLOWER_BASIC_AUTH": credentials,
        "FLOWER_ADDRESS": settings.flower_host,
        "FLOWER_PORT": str(settings.flower_port),
        "FLOWER_READ_ONLY": "true",
        "FLOWER_ENABLE_EVENTS": "false",  # would send remote control commands; the workers send events anyway
        "FLOWER_INSPECT_TIMEOUT": str(INSPECT_MILLISECONDS),
        "FLOWER_MAX_TASKS": str(TASKS_KEPT),
    }


def main() -> None:
    """``python -m workers.flower``."""
    settings = load_settings().require("broker_url")
    begin(settings, "flower")
    os.environ.update(environment(settings))
    from workers.celery_app import app

    sys.argv = ["celery", "flower"]
    app.start(["--quiet", "flower"])


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
