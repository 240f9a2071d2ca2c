"""SHKeeper, a rail of the past: its callbacks are still verified and linked, for payments that were made by it."""

from typing import Final

PROVIDER: Final = "shkeeper"
"""The provider's name in the seed's enum ``payment_provider`` and in ``fleet.webhook_deliveries``."""
