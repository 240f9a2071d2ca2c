"""The keys agent's key files, encrypted under a passphrase that lies in a secret file of its own (R20).

A copied disk or backup of one of the two files opens nothing. scrypt (RFC 7914) makes the key, AES-256-GCM (NIST SP 800-38D)
seals; the setting's name is bound in, so that one file cannot stand in for the other. No message has a file's content.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from custody.settings.environment import FleetSettings, SettingsError, read_secret_file

FORMAT: Final = "amanat-key-file-1"
PASSPHRASE_CHARACTERS_MINIMUM: Final = 20
SCRYPT_N: Final = 1 << 16  # 64 MiB and a fifth of a second, once a start
SCRYPT_N_MAXIMUM: Final = 1 << 20  # a gigabyte: a damaged file must not take the machine's memory
SCRYPT_R: Final = 8
FILE_MAXIMUM_BYTES: Final = 16_384  # eight phrases or eight keys, as hex


def seal(text: str, passphrase: str, *, name: str) -> str:
    """The content of an encrypted key file for the setting ``name``. Raises SettingsError for a short passphrase."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(passphrase) < PASSPHRASE_CHARACTERS_MINIMUM:
        raise SettingsError(f"KEYS_PASSPHRASE_FILE: expected at least {PASSPHRASE_CHARACTERS_MINIMUM} characters")
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    sealed = AESGCM(_key(passphrase, salt, SCRYPT_N)).encrypt(nonce, text.encode(), name.encode())
    fields = {"format": FORMAT, "n": SCRYPT_N, "salt": salt.hex(), "nonce": nonce.hex(), "sealed": sealed.hex()}
    return json.dumps(fields) + "\n"


def is_sealed(content: str) -> bool:
    """Whether a key file's content is encrypted."""
    return content.lstrip().startswith("{")


def unseal(content: str, passphrase: str, *, name: str) -> str:
    """The text that was sealed for ``name``. Raises SettingsError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        fields: Any = json.loads(content)
        cost = fields["n"]
        if fields["format"] != FORMAT or type(cost) is not int or not 2 <= cost <= SCRYPT_N_MAXIMUM:
            raise ValueError
        salt, nonce, sealed = (bytes.fromhex(fields[each]) for each in ("salt", "nonce", "sealed"))
        return AESGCM(_key(passphrase, salt, cost)).decrypt(nonce, sealed, name.encode()).decode()
    except InvalidTag:
        raise SettingsError(
            f"{name.upper()}: the passphrase of KEYS_PASSPHRASE_FILE does not open it, or it was changed"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise SettingsError(f"{name.upper()}: expected a key file of fleet keys init; it is damaged") from None


def read_key_file(settings: FleetSettings, name: str) -> tuple[str, bool]:
    """The keys in the file that the setting ``name`` names, and whether it is encrypted; it must be its owner's alone.

    Raises SettingsError.
    """
    content = read_secret_file(settings.path(name), what=name.upper(), maximum_bytes=FILE_MAXIMUM_BYTES)
    if is_sealed(content):
        return unseal(content, read_passphrase(settings), name=name), True
    return content, False


def require_sealed(name: str, *, sealed: bool, development: bool) -> None:
    """Refuse a plain key file where money is real. Raises SettingsError."""
    if not (sealed or development):
        raise SettingsError(
            f"{name.upper()}: expected an encrypted key file (fleet keys init, fleet keys seal); only development chains may "
            "do without"
        )


def read_passphrase(settings: FleetSettings) -> str:
    """What KEYS_PASSPHRASE_FILE holds. Raises SettingsError."""
    return read_secret_file(settings.path("keys_passphrase_file"), what="KEYS_PASSPHRASE_FILE")


def write_key_file(path: Path, text: str, passphrase: str, *, name: str) -> None:
    """Make a new encrypted key file, mode 0600 from its first moment. Raises SettingsError; never writes over one."""
    content = seal(text, passphrase, name=name)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already, and may be somebody's only copy: nothing was written") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=cost, r=SCRYPT_R, p=1).derive(passphrase.encode())
