"""Deliveries of the scanner and of SHKeeper as they are sent, for payments of a test's marketplace."""

import secrets
from typing import Any
from uuid import UUID

from custody.providers.amn_scanner.intents import Intent, issue_intent
from custody.providers.hmac_signature import sign
from custody.store.engine import transaction
from tests.marketplace import Marketplace

API_KEY = "nApijGv8djih7ozY"
HASH = "0x" + "ef" * 32


def scanner_payment(market: Marketplace) -> tuple[UUID, Intent]:
    """A payment on the scanner's rail, and an intent of it."""
    payment = market.payment()
    market.execute("UPDATE public.payments SET provider = 'amn.scanner' WHERE id = :id", id=payment)
    with transaction(market.database.engine("fleet_operator")) as connection:
        return payment, issue_intent(connection, payment)


def confirmed(intent: Intent, reference: str | None = None, **fields: Any) -> dict[str, Any]:
    """What the scanner says once the intent's transfer is deep enough."""
    return {
        "intentId": intent.intent_id,
        "paymentReference": reference,
        "txHash": HASH,
        "blockNumber": 1234,
        "confirmations": 200,
        "amount": str(intent.amount_units),
        "token": intent.token.lower(),
        "chainId": intent.chain_id,
        "status": "confirmed",
    } | fields


def scanner_headers(body: bytes, secret: str) -> dict[str, str]:
    return {"content-type": "application/json", "x-amn-signature": sign(body, secret)}


def shkeeper_payment(market: Marketplace, *, routed: bool = True) -> tuple[UUID, str]:
    """A payment on SHKeeper's rail, and what its callbacks call it; of the past, it has no route."""
    payment, name = market.payment(), secrets.token_hex(12)
    market.execute(
        "UPDATE public.payments SET provider = 'shkeeper', provider_payment_id = :name WHERE id = :id",
        id=payment,
        name=name,
    )
    if not routed:
        market.execute("DELETE FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
    return payment, name


def invoice(external_id: str, **fields: Any) -> dict[str, Any]:
    """SHKeeper's own example of a callback, of an invoice with two transactions."""
    return {
        "external_id": external_id,
        "crypto": "DEV-USDC",
        "addr": None,
        "fiat": "USD",
        "balance_fiat": "7.80",
        "balance_crypto": "7.80000000",
        "paid": True,
        "status": "PAID",
        "transactions": [
            {
                "txid": "0x" + "0d" * 32,
                "date": "2024-06-25 15:40:38",
                "amount_crypto": "3.80000000",
                "amount_fiat": "3.80",
                "trigger": False,
                "crypto": "DEV-USDC",
            },
            {
                "txid": HASH,
                "date": "2024-06-25 15:45:38",
                "amount_crypto": "4.00000000",
                "amount_fiat": "4.00",
                "trigger": True,
                "crypto": "DEV-USDC",
            },
        ],
        "fee_percent": "2",
        "overpaid_fiat": "0.00",
    } | fields


def shkeeper_headers(body: bytes, key: str = API_KEY, *, timestamp: str | None = None) -> dict[str, str]:
    """As older versions send them; with ``timestamp`` as newer ones do."""
    signed = {
        "x-shkeeper-timestamp": timestamp or "",
        "x-shkeeper-signature": sign(f"{timestamp}.".encode() + body, key),
    }
    return {"content-type": "application/json", "x-shkeeper-api-key": key} | (signed if timestamp else {})


def receive(market: Marketplace, provider: str, body: bytes) -> UUID:
    """Put a delivery into the inbox as the ingress does."""
    return market.execute(
        "INSERT INTO fleet.webhook_deliveries (provider, delivery_key, body_sha256, headers, body, is_test) "
        "VALUES (:provider, :key, sha256(:body), '{}', :body, false) RETURNING id",
        provider=provider,
        key=secrets.token_hex(8),
        body=body,
    )[0].id
