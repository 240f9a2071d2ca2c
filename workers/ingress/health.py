"""Whether the ingress can do its work: its process answers, and its database is there."""

import asyncio
from typing import Final

import psycopg

from workers.ingress.connection import LastingConnection

HEALTH_TTL_SECONDS: Final = 1.0  # the database is asked at most once a second
HEALTH_TIMEOUT_SECONDS: Final = 3.0


class DatabaseHealth:
    """Asks over a connection of its own, so that a full journal does not look like a lost database."""

    def __init__(self, url: str) -> None:
        self._connection = LastingConnection(url, "fleet-ingress-health")
        self._asking = asyncio.Lock()
        self._answer = False
        self._asked_at: float | None = None

    async def is_there(self) -> bool:
        """Whether the database answered within the last second. Never raises."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._asked_at is None or now - self._asked_at >= HEALTH_TTL_SECONDS:
                self._answer = await self._ask()
                self._asked_at = asyncio.get_running_loop().time()
            return self._answer

    async def close(self) -> None:
        await self._connection.close()

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                await (await self._connection.get()).execute("SELECT 1")
        except (psycopg.Error, OSError, TimeoutError):
            await self._connection.close()
            return False
        return True
