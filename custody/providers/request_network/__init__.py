"""Request Network: signed webhooks, their typed events, the step that links a delivery to a payment, and its API."""

from typing import Final

PROVIDER: Final = "request.network"
"""The provider's name in the seed's enum ``payment_provider`` and in ``fleet.webhook_deliveries``."""

PAYMENTS: Final = "request.network/payments"
"""The name of what its API lists, in ``fleet.webhook_deliveries`` and ``fleet.reconciliation_cursors``."""
