"""Secrets that a provider's webhooks are proved by, one a line of a file: two lines while rotating."""

import re
from pathlib import Path
from typing import Final

from custody.settings.environment import SettingsError, read_secret_file

SECRETS_LIMIT: Final = 4  # a rotation needs two; each one costs an HMAC of every body that anybody sends
SECRET_MAXIMUM: Final = 256  # characters
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


def read_secret_lines(path: Path, *, what: str, least: int) -> tuple[str, ...]:
    """The secrets in ``path``, newest first, blank lines ignored; each of ``least`` to SECRET_MAXIMUM characters.

    ``what``: the setting that names the file. Raises SettingsError naming the file and the line, never a secret.
    """
    secrets: list[str] = []
    for number, line in enumerate(read_secret_file(path, what=what).splitlines(), 1):
        secret = line.strip()
        if not secret:
            continue
        if not least <= len(secret) <= SECRET_MAXIMUM or not _PRINTABLE.fullmatch(secret):
            raise SettingsError(
                f"{what}: line {number} of {path}: expected {least} to {SECRET_MAXIMUM} printable ASCII characters"
            )
        secrets.append(secret)
    if not 0 < len(secrets) <= SECRETS_LIMIT:
        raise SettingsError(f"{what}: {path} holds {len(secrets)} secrets, expected 1 to {SECRETS_LIMIT}")
    return tuple(secrets)
