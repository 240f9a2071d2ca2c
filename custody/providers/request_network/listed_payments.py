"""A payment that the API lists, as a hint: journalled raw like a webhook, read and linked by the same rules (L20)."""

import hashlib
import json
import re
from typing import Any, Final

from custody.providers.delivery import Delivery, body_key
from custody.providers.events import MalformedEvent, json_object, read_event
from custody.providers.interface import Provider
from custody.providers.request_network import PAYMENTS
from custody.providers.request_network.events import PayingEvent
from custody.providers.request_network.linking import link

EVENT: Final = "payment.listed"
"""What the journal calls it; no webhook has this name."""

_ID: Final = re.compile(r"[\x21-\x7e]{1,64}")  # a ULID has 26
# What decides which payment and transaction is meant. Rates and fiat may be other ones at every answer.
_DECIDING: Final = ("id", "sourceNetwork", "destinationNetwork", "sourceTxHash", "destinationTxHash")
_DECIDING_OF_REQUEST: Final = ("requestId", "paymentReference")


def journal_entry(payment: dict[str, Any]) -> Delivery:
    """The delivery to journal. Its key changes only with what the listing says of payment and transaction."""
    body = json.dumps(payment, separators=(",", ":")).encode()  # ASCII: no half of a surrogate pair stays one
    digest = hashlib.sha256(body).digest()
    given = payment.get("id")
    key = body_key(digest)
    if isinstance(given, str) and _ID.fullmatch(given):
        request = payment.get("request")
        named = request if isinstance(request, dict) else {}
        deciding = [payment.get(field) for field in _DECIDING] + [named.get(field) for field in _DECIDING_OF_REQUEST]
        said = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:16]
        key = f"payment:{given}:{said}"
    return Delivery(PAYMENTS, key, body, digest, "{}", is_test=False)


def parse_listed(body: bytes) -> PayingEvent:
    """Read a journalled payment. Raises MalformedEvent, and nothing else."""
    payment = json_object(body)
    request = payment.get("request")
    if not isinstance(request, dict):
        raise MalformedEvent("request: expected an object with requestId and paymentReference")
    source, destination = payment.get("sourceNetwork"), payment.get("destinationNetwork")
    transaction_hash = payment.get("destinationTxHash")
    if not transaction_hash and (destination is None or source is None or source == destination):
        transaction_hash = payment.get("sourceTxHash")  # on another chain it is the payer's half of a bridge
    return read_event(
        PayingEvent,
        {
            "event": EVENT,
            "requestId": request.get("requestId"),
            "paymentReference": request.get("paymentReference"),
            "txHash": transaction_hash,
            "network": destination if destination is not None else source,
            "amount": payment.get("amount"),
            "currency": payment.get("currency"),
            "paymentCurrency": payment.get("paymentCurrency"),
            "detectionSource": payment.get("detectionSource"),
        },
    )


LISTED_PAYMENTS: Final = Provider(PAYMENTS, parse_listed, link)
