"""TLS to a server that is known by its key (R4): no authority's word is taken in its place.

The pin is SHA-256 of the certificate's SubjectPublicKeyInfo, so a renewed certificate of the same key still fits. It
is compared when the handshake ends, before a byte of the request, and with it a session, is sent.
"""

import ssl
from hmac import compare_digest
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from workers.signer.trust import spki_sha256


class PinDiffers(ssl.SSLError):
    """The server's key is not the pinned one. Nothing was sent to it."""


def pinned_context(certificate_sha256: str) -> ssl.SSLContext:
    """A client context that accepts exactly one server key, by its pin of 64 hexadecimal digits."""

    class _PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            found = _pin_of(self.getpeercert(binary_form=True))
            if not compare_digest(found, certificate_sha256):
                raise PinDiffers(f"the server's key is {found or 'not shown'}, pinned is {certificate_sha256}")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A key of our own is known by itself; which authority vouches for it, and under which name, adds nothing.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = _PinnedSocket
    return context


def certificate_pin(pem: bytes) -> str:
    """The pin of a certificate file (PEM). Raises ValueError for another text."""
    return _pin(x509.load_pem_x509_certificate(pem))


def _pin_of(der: bytes | None) -> str:
    return _pin(x509.load_der_x509_certificate(der)) if der else ""


def _pin(certificate: x509.Certificate) -> str:
    key: Any = certificate.public_key()
    return spki_sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
