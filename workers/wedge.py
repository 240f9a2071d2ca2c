"""A worker that takes no messages though some wait ends itself, so that its supervisor starts a new one.

Celery's consumer can stay up and deaf after its broker died under it. Being up is no life; taking doorbells is.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

import redis
import structlog

from custody.settings.environment import FleetSettings
from workers import health

log = structlog.get_logger(__name__)

WEDGED_SECONDS: Final = 75.0  # longer than a task may run (60 s), shorter than what health calls silence (120 s)
LOOK_SECONDS: Final = 5.0
_LOOKS: Final = 2  # one look may fall between a doorbell's arrival and its taking
_SOCKET_SECONDS: Final = 5.0
_EXIT_WEDGED: Final = 70  # EX_SOFTWARE


class WedgeWatch:
    """Counts the looks in a row at which messages waited and nothing had been done for ``WEDGED_SECONDS``."""

    def __init__(self, silent_seconds: Callable[[], float | None], waiting: Callable[[], int]) -> None:
        self._silent_seconds = silent_seconds
        self._waiting = waiting
        self._looks = 0

    def is_wedged(self) -> bool:
        """Look once. A broker that is away is no wedge: then nobody can take messages."""
        silent = self._silent_seconds()
        try:
            deaf = silent is not None and silent >= WEDGED_SECONDS and self._waiting() > 0
        except redis.RedisError:
            deaf = False
        self._looks = self._looks + 1 if deaf else 0
        return self._looks >= _LOOKS


def watch_for_a_wedge(settings: FleetSettings, queue: str) -> None:
    """Start the watch in a thread of the worker's main process; it ends the process when the worker is wedged."""
    client = redis.Redis.from_url(
        settings.secret("broker_url"), socket_timeout=_SOCKET_SECONDS, socket_connect_timeout=_SOCKET_SECONDS
    )

    def waiting() -> int:
        found = client.llen(queue)
        assert isinstance(found, int)
        return found

    watch = WedgeWatch(lambda: health.seconds_since(health.process_name()), waiting)

    def look() -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            if watch.is_wedged():
                log.critical("worker_wedged", queue=queue, silent_seconds=WEDGED_SECONDS)
                os._exit(_EXIT_WEDGED)

    threading.Thread(target=look, name="wedge-watch", daemon=True).start()
