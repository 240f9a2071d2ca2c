"""The keys of the seals: one Ed25519 key signs, any number of public keys verify (Ed25519: RFC 8032).

Both are PEM files, as ``openssl genpkey -algorithm ed25519`` and ``openssl pkey -pubout`` write them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from custody.settings.environment import SettingsError, read_secret_file

KEY_ID_LENGTH: Final = 16
PUBLIC_FILE_MAXIMUM_BYTES: Final = 65_536  # a PEM is 113 bytes: hundreds of rotations
_PEM_END: Final = "-----END PUBLIC KEY-----"

PublicKeys = Mapping[str, Ed25519PublicKey]
"""Public keys by key id. Several, because seals of before a rotation stay signed by the key of their time."""


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the raw public key."""
    return sha256(key.public_bytes_raw()).hexdigest()[:KEY_ID_LENGTH]


@dataclass(frozen=True, slots=True)
class SealKey:
    """What signs seals. Never printed: ``repr`` shows the key id alone."""

    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SealKey({self.id})"

    @property
    def id(self) -> str:
        return key_id(self.private.public_key())

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()

    def sign(self, seal_hash: bytes) -> bytes:
        """The 64-byte signature over a seal's hash."""
        return self.private.sign(seal_hash)


def new_seal_key() -> tuple[str, str]:
    """A fresh key as PEM texts: private and public. For development; in production a person makes it."""
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret.decode(), public_pem(private.public_key())


def public_pem(key: Ed25519PublicKey) -> str:
    """The public key as PEM text."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load_seal_key(path: Path) -> SealKey:
    """The signing key in the file, which nobody else may read. Raises SettingsError, which never shows the key."""
    pem = read_secret_file(path, what="LEDGER_SEAL_KEY_FILE")
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"LEDGER_SEAL_KEY_FILE: {path} must hold one unencrypted Ed25519 key as PEM: "
            "openssl genpkey -algorithm ed25519"
        )
    return SealKey(key)


def load_public_keys(path: Path) -> PublicKeys:
    """The public keys in a PEM file, one after the other. Raises SettingsError naming what was expected."""
    try:
        with path.open("rb") as file:
            content = file.read(PUBLIC_FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"public key: {path} cannot be read: {error.strerror}") from None
    wrong = SettingsError(f"public key: {path} must hold Ed25519 public keys as PEM: openssl pkey -pubout")
    if len(content) > PUBLIC_FILE_MAXIMUM_BYTES:
        raise wrong
    found: dict[str, Ed25519PublicKey] = {}
    for block in content.decode("utf-8", "replace").split(_PEM_END)[:-1]:
        try:
            key = load_pem_public_key((block.strip() + "\n" + _PEM_END + "\n").encode())
        except (ValueError, UnsupportedAlgorithm):
            raise wrong from None
        if not isinstance(key, Ed25519PublicKey):
            raise wrong
        found[key_id(key)] = key
    if not found:
        raise wrong
    return found


def is_signed(keys: PublicKeys, name: str, signature: bytes, seal_hash: bytes) -> bool:
    """Whether the key of that id, which must be one of ``keys``, signed the hash."""
    key = keys.get(name)
    if key is None:
        return False
    try:
        key.verify(signature, seal_hash)
    except InvalidSignature:
        return False
    return True
