"""Request Network behind the interface of all providers."""

from collections.abc import Sequence
from typing import Final

from custody.providers.delivery import RawHeaders, header
from custody.providers.interface import Door, Provider, SecretsInFile
from custody.providers.request_network import PROVIDER
from custody.providers.request_network.delivery import SIGNATURE_HEADER, read_delivery
from custody.providers.request_network.events import parse_event
from custody.providers.request_network.linking import link
from custody.providers.request_network.signature import is_authentic, read_webhook_secrets


def _is_signed(headers: RawHeaders, body: bytes, secrets: Sequence[str]) -> bool:
    return is_authentic(body, header(headers, SIGNATURE_HEADER), secrets)


REQUEST_NETWORK: Final = Provider(
    PROVIDER,
    parse_event,
    link,
    Door(
        path="/webhooks/request-network",
        accepted=200,
        secrets=SecretsInFile("request_network_webhook_secrets_file", read_webhook_secrets, required=True),
        is_authentic=_is_signed,
        read_delivery=read_delivery,
    ),
)
