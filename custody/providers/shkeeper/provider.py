"""SHKeeper behind the interface of all providers. It repeats a callback every minute until it is answered with 202."""

from typing import Final

from custody.providers.delivery import Delivery, RawHeaders, delivery_known_by_body
from custody.providers.interface import Door, Provider, SecretsInFile
from custody.providers.shkeeper import PROVIDER
from custody.providers.shkeeper.events import parse_event
from custody.providers.shkeeper.linking import link
from custody.providers.shkeeper.signature import is_authentic, read_api_keys


def _read_delivery(headers: RawHeaders, body: bytes) -> Delivery:
    return delivery_known_by_body(PROVIDER, headers, body)


SHKEEPER: Final = Provider(
    PROVIDER,
    parse_event,
    link,
    Door(
        path="/webhooks/shkeeper",
        accepted=202,
        secrets=SecretsInFile("shkeeper_api_keys_file", read_api_keys, required=False),
        is_authentic=is_authentic,
        read_delivery=_read_delivery,
    ),
)
