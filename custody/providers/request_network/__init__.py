"""Request Network: signed webhooks, their typed events, and the step that links a delivery to a payment."""

from typing import Final

PROVIDER: Final = "request.network"
"""The provider's name in the seed's enum ``payment_provider`` and in ``fleet.webhook_deliveries``."""
