"""The webhook secrets in force, followed as their file changes: a rotation needs no restart."""

from pathlib import Path

import structlog

from custody.providers.request_network.signature import read_webhook_secrets
from custody.settings.environment import SettingsError

log = structlog.get_logger(__name__)

_Version = tuple[int, int, int, int]


class WebhookSecrets:
    """The secrets of a file, read again whenever the file is another one.

    A file that is missing, half-written or wrong leaves the secrets last read in force, with an error in the
    log: a slip while rotating must not turn every webhook away.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SettingsError if it cannot be used at all."""
        self._path = path
        self._version = self._look()
        self._secrets = read_webhook_secrets(path)

    def current(self) -> tuple[str, ...]:
        """The secrets in force now, newest first. One ``stat`` a call; never raises."""
        version = self._look()
        if version == self._version:
            return self._secrets
        self._version = version
        try:
            self._secrets = read_webhook_secrets(self._path)
        except SettingsError as error:
            log.error("webhook_secrets_not_read", error=str(error), in_force=len(self._secrets))
        else:
            log.info("webhook_secrets_read", in_force=len(self._secrets))
        return self._secrets

    def _look(self) -> _Version | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
