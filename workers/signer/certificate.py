"""The API as this machine reaches it: host and certificate, which stand in every text that a device signs for it (R6)."""

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from custody.registration import ApiPlace
from workers.signer.client import SignerApiAway, SignerApiError
from workers.signer.pinned_tls import certificate_pin, pinned_context

CONNECT_SECONDS: Final = 10.0
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def place_at(url: str, *, pinned: str | None = None) -> ApiPlace:
    """Host and port of ``url``, and the pin (SHA-256 of its public key) of the certificate that is shown there.

    ``pinned``: the trust file's; without it the system's authorities vouch for the server. Raises SignerApiAway,
    SignerApiError.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    pin = None
    if parts.scheme == "https":
        context = ssl.create_default_context() if pinned is None else pinned_context(pinned)
        try:
            with (
                socket.create_connection((host, port), CONNECT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=host) as secured,
            ):
                certificate = secured.getpeercert(binary_form=True) or b""
        except OSError as error:
            raise SignerApiAway(
                f"No certificate was shown at {host}:{port} ({type(error).__name__}): {error}"
            ) from None
        pin = certificate_pin(ssl.DER_cert_to_PEM_cert(certificate).encode())
    try:
        return ApiPlace(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", pin)
    except ValueError as error:
        raise SignerApiError(f"SIGNER_API_URL: {error}") from None
