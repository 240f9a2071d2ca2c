"""The scanner behind the interface of all providers: each intent has a secret of its own."""

from collections.abc import Sequence
from typing import Final

from custody.providers.amn_scanner import PROVIDER
from custody.providers.amn_scanner.events import parse_event, subject_of
from custody.providers.amn_scanner.linking import link
from custody.providers.delivery import Delivery, RawHeaders, delivery_known_by_body, header
from custody.providers.hmac_signature import is_signature, is_signed
from custody.providers.interface import Door, Provider, SecretsIssued

SIGNATURE_HEADER: Final = b"x-amn-signature"


def _subject(headers: RawHeaders, body: bytes) -> str | None:
    # What is not even signed costs the database nothing.
    return subject_of(body) if is_signature(header(headers, SIGNATURE_HEADER)) else None


def _is_authentic(headers: RawHeaders, body: bytes, secrets: Sequence[str]) -> bool:
    return is_signed(body, header(headers, SIGNATURE_HEADER), secrets)


def _read_delivery(headers: RawHeaders, body: bytes) -> Delivery:
    return delivery_known_by_body(PROVIDER, headers, body)


AMN_SCANNER: Final = Provider(
    PROVIDER,
    parse_event,
    link,
    Door(
        path="/webhooks/amn-scanner",
        accepted=200,
        secrets=SecretsIssued(_subject, "SELECT fleet.scanner_callback_secret(%s)"),
        is_authentic=_is_authentic,
        read_delivery=_read_delivery,
    ),
)
