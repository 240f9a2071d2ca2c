"""The API as this machine reaches it: host and certificate, which stand in every text that a device signs for it (R6)."""

import socket
import ssl
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from custody.registration import ApiPlace
from workers.signer.client import SignerApiAway, SignerApiError

CONNECT_SECONDS: Final = 10.0
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def place_at(url: str, context: ssl.SSLContext | None = None) -> ApiPlace:
    """Host and port of ``url``, and SHA-256 of the certificate that this machine is shown there, verified.

    ``context``: default the system's authorities. Raises SignerApiAway, SignerApiError.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    pin = None
    if parts.scheme == "https":
        try:
            with (
                socket.create_connection((host, port), CONNECT_SECONDS) as plain,
                (context or ssl.create_default_context()).wrap_socket(plain, server_hostname=host) as secured,
            ):
                certificate = secured.getpeercert(binary_form=True)
        except OSError as error:
            raise SignerApiAway(
                f"No certificate was shown at {host}:{port} ({type(error).__name__}): {error}"
            ) from None
        pin = sha256(certificate or b"").hexdigest()
    try:
        return ApiPlace(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", pin)
    except ValueError as error:
        raise SignerApiError(f"SIGNER_API_URL: {error}") from None
