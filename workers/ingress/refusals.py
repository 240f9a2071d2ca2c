"""Refusals in the log: counted, and told at most once a second each: no stranger fills the disk."""

import time
from typing import Final

import structlog

log = structlog.get_logger(__name__)

TOLD_EVERY_SECONDS: Final = 1.0


class Refusals:
    """One counter a kind of refusal, for the deliveries of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._count: dict[str, int] = {}
        self._told_at: dict[str, float] = {}

    def note(self, kind: str) -> None:
        """Count a refusal of ``kind`` (an event name of the log) and tell it, with those not told before."""
        self._count[kind] = self._count.get(kind, 0) + 1
        now = time.monotonic()
        if now - self._told_at.get(kind, -TOLD_EVERY_SECONDS) >= TOLD_EVERY_SECONDS:
            log.warning(kind, provider=self._provider, count=self._count.pop(kind))
            self._told_at[kind] = now
