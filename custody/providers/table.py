"""Every source of hints in one table: the ingress opens the doors, and the webhooks queue reads what was journalled."""

from typing import Final

from custody.providers.amn_scanner.provider import AMN_SCANNER
from custody.providers.interface import Provider
from custody.providers.request_network.listed_payments import LISTED_PAYMENTS
from custody.providers.request_network.provider import REQUEST_NETWORK
from custody.providers.shkeeper.provider import SHKEEPER

PROVIDERS: Final[tuple[Provider, ...]] = (REQUEST_NETWORK, LISTED_PAYMENTS, AMN_SCANNER, SHKEEPER)
BY_NAME: Final = {provider.name: provider for provider in PROVIDERS}
