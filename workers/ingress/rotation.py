"""The secrets in force: a file's, followed as it changes, so that a rotation needs no restart; or one asked for by name."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Protocol

import psycopg
import structlog

from custody.providers.delivery import RawHeaders
from custody.providers.interface import SecretsInFile, SecretsIssued
from custody.settings.environment import SettingsError
from workers.ingress.connection import LastingConnection

log = structlog.get_logger(__name__)

_Version = tuple[int, int, int, int]


class SecretsAway(Exception):
    """The secrets cannot be asked for now: the sender must try again."""


class Secrets(Protocol):
    """The secrets that what was sent may have been made with, newest first; none for what names nobody."""

    async def of(self, headers: RawHeaders, body: bytes) -> Sequence[str]:
        """Raises SecretsAway."""
        ...

    async def close(self) -> None: ...


class WebhookSecrets:
    """The secrets of a file, read again whenever the file is another one.

    A file that is missing, half-written or wrong leaves the secrets last read in force, with an error in the
    log: a slip while rotating must not turn every webhook away.
    """

    def __init__(self, path: Path, kind: SecretsInFile) -> None:
        """Read the file. Raises SettingsError if it cannot be used at all."""
        self._path = path
        self._read: Callable[[Path], tuple[str, ...]] = kind.read
        self._setting = kind.setting
        self._version = self._look()
        self._secrets = self._read(path)

    async def of(self, headers: RawHeaders, body: bytes) -> Sequence[str]:
        return self.current()

    async def close(self) -> None:
        pass

    def current(self) -> tuple[str, ...]:
        """The secrets in force now, newest first. One ``stat`` a call; never raises."""
        version = self._look()
        if version == self._version:
            return self._secrets
        self._version = version
        try:
            self._secrets = self._read(self._path)
        except SettingsError as error:
            log.error("webhook_secrets_not_read", error=str(error), in_force=len(self._secrets))
        else:
            log.info("webhook_secrets_read", setting=self._setting, in_force=len(self._secrets))
        return self._secrets

    def _look(self) -> _Version | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


class IssuedSecrets:
    """Secrets that the database holds one by one, over a connection of their own; none is kept.

    One question at a time: whoever floods this door waits for himself, and for nobody else.
    """

    def __init__(self, url: str, kind: SecretsIssued) -> None:
        self._connection = LastingConnection(url, "fleet-ingress-secrets")
        self._kind = kind
        self._asking = asyncio.Lock()
        # Whoever names nobody is measured against it: the answer's time tells no name that exists.
        self._nobodys = token_hex()

    async def of(self, headers: RawHeaders, body: bytes) -> Sequence[str]:
        subject = self._kind.subject(headers, body)
        if subject is None:
            return ()
        async with self._asking:
            try:
                cursor = await (await self._connection.get()).execute(self._kind.lookup, (subject,))
                row = await cursor.fetchone()
            except (psycopg.Error, OSError, asyncio.CancelledError) as error:
                # A connection that was left in the middle of an answer is of no use to the next question.
                await self._connection.close()
                if isinstance(error, asyncio.CancelledError):
                    raise
                log.error("secrets_away", error=type(error).__name__)
                raise SecretsAway from None
        return (self._nobodys if row is None or row[0] is None else row[0],)

    async def close(self) -> None:
        await self._connection.close()


def open_secrets(kind: SecretsInFile | SecretsIssued, url: str, path: Callable[[str], Path]) -> Secrets:
    """The secrets of one door. ``path`` gives a file setting's place. Raises SettingsError."""
    if isinstance(kind, SecretsInFile):
        return WebhookSecrets(path(kind.setting), kind)
    return IssuedSecrets(url, kind)
