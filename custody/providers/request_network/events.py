"""The events of Request Network's webhooks, typed and open: unknown fields and unknown events are kept.

Sources: Request Network documentation (api-reference/webhooks, use-cases/webhook-reconciliation,
orchestrators/webhooks) and its own consumers. Amounts are human decimals ("100.0"), never smallest units.
Events carry no chain id, token address, log index or block: none decides about money.
"""

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from custody.providers.request_network import networks

_EVENT_NAME: Final = re.compile(r"[\x21-\x7e]{1,100}")
_IDENTIFIER: Final = re.compile(r"[\x21-\x7e]{1,200}")
_REQUEST_ID: Final = re.compile(r"01[0-9a-fA-F]{64}")
_REFERENCE: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{16})")
_TRANSACTION_HASH: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{64})")
_AMOUNT: Final = re.compile(r"[0-9]{1,60}(?:\.[0-9]{1,36})?")  # wider than any token's supply
_FLAVOURS: Final = (".client_id", ".checkout")
_BRACKETS_LIMIT: Final = 200  # an event is flat; parsers recurse, and what others imported may let them recurse too far
_REASON_LIMIT: Final = 300  # characters of a refusal that are kept


class MalformedEvent(ValueError):
    """A body that is no event. The message names the field and what was expected."""


def _identifier(value: object) -> object:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise ValueError("expected 1 to 200 printable ASCII characters")
    return value.lower() if _REQUEST_ID.fullmatch(value) else value


def _reference(value: object) -> object:
    if value is None or value == "":
        return None
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected 0x and 16 hex digits")
    return "0x" + match[1].lower()


def _transaction_hash(value: object) -> object:
    if value is None or value == "":
        return None
    match = _TRANSACTION_HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected 0x and 64 hex digits")
    return "0x" + match[1].lower()


def _amount(value: object) -> object:
    # A JSON number arrives here as int or Decimal, digit by digit as it was written: never as float.
    written = str(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else value
    if not isinstance(written, str) or not _AMOUNT.fullmatch(written):
        raise ValueError('expected a decimal number such as "100.0"')
    return Decimal(written)


Identifier = Annotated[str | None, BeforeValidator(_identifier)]
PaymentReference = Annotated[str | None, BeforeValidator(_reference)]
TransactionHash = Annotated[str | None, BeforeValidator(_transaction_hash)]
HumanAmount = Annotated[Decimal, BeforeValidator(_amount)]


class _Open(BaseModel):
    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=False,
        arbitrary_types_allowed=False,
    )


class Fee(_Open):
    """One fee of a payment, as the event tells it. Whole tokens of ``currency``."""

    type: str | None = None
    amount: HumanAmount | None = None
    currency: str | None = None


class Event(_Open):
    """What every event has. ``unread`` names known fields whose value was not understood and left out."""

    deciding: ClassVar[frozenset[str]] = frozenset({"event"})
    """Fields (as sent) that make the event malformed when wrong; wrong values elsewhere are only left out."""

    event: str
    request_id: Identifier = None
    payment_reference: PaymentReference = None
    timestamp: datetime | None = None
    payment_processor: str | None = None
    unread: Annotated[tuple[str, ...], Field(alias="__unread__")] = ()

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
    fields = _json_object(body)
    name = fields.get("event")
    if not isinstance(name, str) or not _EVENT_NAME.fullmatch(name):
        raise MalformedEvent("event: expected the name of an event, 1 to 100 printable ASCII characters")
    fields.pop("__unread__", None)
    model = _EVENTS.get(base_event(name), UnknownEvent)
    _one_request_id(fields, model)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        wrong = {
            str(item["loc"][0]): item["msg"]
            for item in error.errors(include_input=False, include_url=False, include_context=False)
            if item["loc"]
        }
    deciding = sorted(model.deciding & wrong.keys())
    if deciding:
        raise MalformedEvent("; ".join(f"{field}: {wrong[field]}" for field in deciding)[:_REASON_LIMIT])
    read = {field: value for field, value in fields.items() if field not in wrong}
    try:
        return model.model_validate({**read, "__unread__": tuple(sorted(wrong))})
    except ValidationError:
        raise MalformedEvent("the fields of the event cannot be read") from None


def _one_request_id(fields: dict[str, Any], model: type[Event]) -> None:
    """Fold requestID, which is sent beside requestId, into it. Raises MalformedEvent if they differ."""
    if "requestID" not in fields:
        return
    second = fields.pop("requestID")
    first = fields.setdefault("requestId", second)
    if first != second and "requestId" in model.deciding:
        raise MalformedEvent("requestId and requestID differ: expected the same value twice")


def _json_object(body: bytes) -> dict[str, Any]:
    if body.count(b"[") + body.count(b"{") > _BRACKETS_LIMIT:
        raise MalformedEvent(f"the body has over {_BRACKETS_LIMIT} brackets: expected one flat JSON object")
    try:
        value = json.loads(body.decode("utf-8", "strict"), parse_float=Decimal, parse_constant=_refuse_constant)
        # Escapes can write halves of surrogate pairs, which are no text and which no database holds.
        if isinstance(value, dict):
            for key in value:
                key.encode("utf-8")
    except (ValueError, ArithmeticError):
        raise MalformedEvent("the body is no JSON in UTF-8: expected one JSON object") from None
    if not isinstance(value, dict):
        raise MalformedEvent("the body is JSON but no object: expected one JSON object")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)
