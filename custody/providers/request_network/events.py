"""The events of Request Network's webhooks, typed and open: unknown fields and unknown events are kept.

Sources: Request Network documentation (api-reference/webhooks, use-cases/webhook-reconciliation,
orchestrators/webhooks) and its own consumers. Amounts are human decimals ("100.0"), never smallest units.
Events carry no chain id, token address, log index or block: none decides about money.
"""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from custody.providers.events import (
    EVENT_NAME,
    HumanAmount,
    MalformedEvent,
    Open,
    OpenEvent,
    PaymentReference,
    TransactionHash,
    identifier,
    json_object,
    read_event,
)
from custody.providers.request_network import networks

__all__ = ["CORE_EVENTS", "Event", "MalformedEvent", "PayingEvent", "base_event", "parse_event"]

_REQUEST_ID: Final = re.compile(r"01[0-9a-fA-F]{64}")
_FLAVOURS: Final = (".client_id", ".checkout")


def _request_id(value: object) -> object:
    named = identifier(value)
    return named.lower() if isinstance(named, str) and _REQUEST_ID.fullmatch(named) else named


Identifier = Annotated[str | None, BeforeValidator(_request_id)]


class Fee(Open):
    """One fee of a payment, as the event tells it. Whole tokens of ``currency``."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: str | None = None
    amount: HumanAmount | None = None
    currency: str | None = None


class Event(OpenEvent):
    """What every event has."""

    model_config = ConfigDict(alias_generator=to_camel)

    request_id: Identifier = None
    payment_reference: PaymentReference = None
    timestamp: datetime | None = None
    payment_processor: str | None = None

    @property
    def base(self) -> str:
        """The core event behind this flavour of it."""
        return base_event(self.event)


class PayingEvent(Event):
    """payment.confirmed, payment.partial: coins are said to have moved in ``tx_hash``. Whole tokens."""

    deciding: ClassVar[frozenset[str]] = frozenset({"event", "requestId", "paymentReference", "txHash"})

    tx_hash: TransactionHash = None
    network: str | None = None
    amount: HumanAmount | None = None
    total_amount_paid: HumanAmount | None = None
    expected_amount: HumanAmount | None = None
    excess_amount: HumanAmount | None = None
    currency: str | None = None
    payment_currency: str | None = None
    payer_address: str | None = None
    payer_eoa_address: str | None = None
    is_crypto_to_fiat: bool | None = None
    sub_status: str | None = None
    explorer: str | None = None
    fees: tuple[Fee, ...] = ()
    client_id: str | None = None
    origin: str | None = None
    detection_source: str | None = None
    note: str | None = None

    @property
    def chain_id(self) -> int | None:
        """The chain that ``network`` names, or None for no name or one not known here."""
        return None if self.network is None else networks.chain_id(self.network)


class PaymentFailed(Event):
    """payment.failed: nothing has moved, or it came back in fiat."""

    sub_status: str | None = None


class PaymentRefunded(Event):
    """payment.refunded: the payee paid back outside of the fleet. Whole tokens."""

    refunded_to: str | None = None
    refund_amount: HumanAmount | None = None
    currency: str | None = None


class PaymentProcessing(Event):
    """payment.processing: steps of a payout in fiat."""

    offramp_id: str | None = None
    sub_status: str | None = None


class RequestRecurring(Event):
    """request.recurring: a new request was made from a recurring one."""

    original_request_id: Identifier = None
    original_request_payment_reference: PaymentReference = None


class PaymentDetailUpdated(Event):
    """payment_detail.updated: a bank account was judged."""

    payment_details_id: str | None = None
    client_user_id: str | None = None
    status: str | None = None


class ComplianceUpdated(Event):
    """compliance.updated: a customer was judged. The documents disagree on the statuses, so any is kept."""

    client_user_id: str | None = None
    kyc_status: str | None = None
    agreement_status: str | None = None
    is_compliant: bool | None = None


class SecurePaymentUserEvent(Event):
    """secure_payment.user_event: what a payer clicked. Best effort; never money."""

    user_event: str | None = None
    secure_payment_token: str | None = None
    request_ids: tuple[str, ...] = ()
    orchestrator_id: str | None = None
    occurred_at: datetime | None = None


class SecurePaymentAccessRejected(Event):
    """secure_payment.access_rejected: a wallet that may not pay this link tried to."""

    attempted_payer_wallet_address: str | None = None


class OrchestratorEvent(Event):
    """client_id.linked, kyt.screening.completed: sent to orchestrators; their fields are not published."""


class UnknownEvent(Event):
    """An event without a name known here: kept as it is."""


_EVENTS: Final[dict[str, type[Event]]] = {
    "payment.confirmed": PayingEvent,
    "payment.partial": PayingEvent,
    "payment.failed": PaymentFailed,
    "payment.refunded": PaymentRefunded,
    "payment.processing": PaymentProcessing,
    "request.recurring": RequestRecurring,
    "payment_detail.updated": PaymentDetailUpdated,
    "compliance.updated": ComplianceUpdated,
    "secure_payment.user_event": SecurePaymentUserEvent,
    "secure_payment.access_rejected": SecurePaymentAccessRejected,
    "client_id.linked": OrchestratorEvent,
    "kyt.screening.completed": OrchestratorEvent,
}
CORE_EVENTS: Final = frozenset(_EVENTS)


def base_event(name: str) -> str:
    """The core event that ``name`` is a flavour of; any other name is returned as it is.

    One payment is told up to three times, each with its own delivery: ``payment.confirmed``,
    ``payment.confirmed.client_id`` and ``payment.confirmed.checkout``.
    """
    for flavour in _FLAVOURS:
        core = name.removesuffix(flavour)
        if core != name and core in CORE_EVENTS:
            return core
    return name


def parse_event(body: bytes) -> Event:
    """Read the event in a webhook's raw body.

    Raises MalformedEvent, and nothing else, whatever the bytes: the message says what was expected.
    """
    fields = json_object(body)
    name = fields.get("event")
    if not isinstance(name, str) or not EVENT_NAME.fullmatch(name):
        raise MalformedEvent("event: expected the name of an event, 1 to 100 printable ASCII characters")
    model = _EVENTS.get(base_event(name), UnknownEvent)
    _one_request_id(fields, model)
    return read_event(model, fields)


def _one_request_id(fields: dict[str, Any], model: type[Event]) -> None:
    """Fold requestID, which is sent beside requestId, into it. Raises MalformedEvent if they differ."""
    if "requestID" not in fields:
        return
    second = fields.pop("requestID")
    first = fields.setdefault("requestId", second)
    if first != second and "requestId" in model.deciding:
        raise MalformedEvent("requestId and requestID differ: expected the same value twice")
