"""The marketplace's own scanner: webhooks signed with a secret per intent, their events, and what they are linked to."""

from typing import Final

PROVIDER: Final = "amn.scanner"
"""The provider's name in the seed's enum ``payment_provider`` and in ``fleet.webhook_deliveries``."""
