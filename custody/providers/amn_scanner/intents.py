"""Issuing an intent: what the scanner is told about a payment, and the secret that it signs its callbacks with.

The secret is written where the caller hands it to the scanner, and into one column that no process can read but the
ingress, one intent at a time.
"""

import secrets
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from custody.chain.assets import InvalidAmount, to_units
from custody.providers.amn_scanner import PROVIDER

SECRET_BYTES: Final = 32

_ROUTE: Final = text(
    """
    SELECT p.provider::text AS provider, r.chain_id, r.token, t.decimals, r.expected, d.address
    FROM public.payments p
    LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
    LEFT JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
    LEFT JOIN public.derived_destinations d ON d.id = r.destination_id
    WHERE p.id = :id
    """
)
_INSERT: Final = text(
    "INSERT INTO fleet.scanner_intents (intent_id, payment_id, callback_secret) VALUES (:intent, :payment, :secret)"
)


class IntentRefused(Exception):
    """No intent is issued. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An intent as the scanner's ``POST /intents`` takes it. ``amount_units`` in smallest units."""

    intent_id: str
    chain_id: int
    token: str
    destination: str
    amount_units: int
    callback_secret: str = field(repr=False)

    def request(self, callback_url: str) -> dict[str, str | int]:
        """The body of ``POST /intents``. It holds the secret: for a private file or the scanner, nowhere else."""
        return {
            "intentId": self.intent_id,
            "chainId": self.chain_id,
            "tokenAddress": self.token.lower(),
            "destination": self.destination,
            "amount": str(self.amount_units),
            "callbackUrl": callback_url,
            "callbackSecret": self.callback_secret,
        }


def issue_intent(connection: Connection, payment_id: UUID) -> Intent:
    """A new intent of a payment whose route stands; an earlier one of it stays good.

    Never the same intent with other parameters: each has an id of its own. Raises IntentRefused.
    """
    row = connection.execute(_ROUTE, {"id": payment_id}).one_or_none()
    if row is None:
        raise IntentRefused(f"there is no payment {payment_id}")
    if row.provider != PROVIDER:
        raise IntentRefused(f"payment {payment_id} is paid by {row.provider}: expected {PROVIDER}")
    if row.chain_id is None:
        raise IntentRefused(f"payment {payment_id} has no route: issue its deposit address first")
    try:
        units = to_units(row.expected, row.decimals)
    except InvalidAmount as error:
        raise IntentRefused(f"payment {payment_id}: {error}") from None
    intent = Intent(
        intent_id=str(uuid4()),
        chain_id=row.chain_id,
        token=row.token,
        destination=row.address,
        amount_units=units,
        callback_secret=secrets.token_hex(SECRET_BYTES),
    )
    connection.execute(_INSERT, {"intent": intent.intent_id, "payment": payment_id, "secret": intent.callback_secret})
    return intent
