"""The scanner's webhooks, typed and open: ``confirmed`` of an intent, ``balance_changed`` of a watched address.

Source: the marketplace's scanner API (``POST /intents``, ``POST /balance-watches``). Amounts are whole numbers of
smallest units. The names of the fields of ``balance_changed`` are not published: those read here are the ones that
its requests use, and unknown ones are kept.
"""

import re
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from custody.providers.events import (
    EVENT_NAME,
    Identifier,
    MalformedEvent,
    OpenEvent,
    PaymentReference,
    TransactionHash,
    UnitAmount,
    json_object,
    read_event,
)

_SUBJECT: Final = re.compile(r"[0-9A-Za-z._:-]{1,100}")
_CHAIN_ID: Final = re.compile(r"[1-9][0-9]{0,17}")  # fits a bigint
_PROGRESS: Final = frozenset({"pending", "confirming", "expired", "failed", "webhook_failed"})


def _chain_id(value: object) -> object:
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(written, str) or not _CHAIN_ID.fullmatch(written):
        raise ValueError("expected a chain id such as 56")
    return int(written)


ChainId = Annotated[int, BeforeValidator(_chain_id)]


class ScannerEvent(OpenEvent):
    """What every event of the scanner has. ``subject``: the intent's or the balance watch's id."""

    model_config = ConfigDict(alias_generator=to_camel)

    deciding: ClassVar[frozenset[str]] = frozenset({"event"})

    subject: str
    payment_reference: PaymentReference = None
    tx_hash: TransactionHash = None
    chain_id: ChainId | None = None
    token: Identifier = None
    address: Identifier = None


class TransferConfirmed(ScannerEvent):
    """``confirmed``: the intent's transfer is said to be deep enough. ``amount`` in smallest units."""

    deciding: ClassVar[frozenset[str]] = frozenset({"paymentReference", "txHash", "chainId", "token", "amount"})

    amount: UnitAmount | None = None
    block_number: int | None = None
    confirmations: int | None = None


class BalanceChanged(ScannerEvent):
    """``balance_changed``: a watched address is said to hold another amount than at its baseline. Smallest units."""

    deciding: ClassVar[frozenset[str]] = frozenset({"txHash", "chainId", "token", "address"})

    baseline: UnitAmount | None = None
    balance: UnitAmount | None = None
    delta: UnitAmount | None = None


class IntentProgress(ScannerEvent):
    """``pending``, ``confirming``, ``expired`` and the like: nothing to look at."""


class UnknownScannerEvent(ScannerEvent):
    """A status without a name known here: kept as it is."""


def subject_of(body: bytes) -> str | None:
    """The intent or balance watch that a body names, or None. Never raises: nobody has proved himself yet."""
    try:
        return _subject(json_object(body))
    except MalformedEvent:
        return None


def parse_event(body: bytes) -> ScannerEvent:
    """Read the event in a webhook's raw body. Raises MalformedEvent, and nothing else, whatever the bytes."""
    fields = json_object(body)
    subject = _subject(fields)
    if subject is None:
        raise MalformedEvent("intentId: expected 1 to 100 of the characters 0-9 A-Z a-z . _ : -")
    name = fields.get("event", fields.get("status"))
    if not isinstance(name, str) or not EVENT_NAME.fullmatch(name):
        raise MalformedEvent("status: expected the name of a status, 1 to 100 printable ASCII characters")
    model: type[ScannerEvent] = UnknownScannerEvent
    if name == "confirmed":
        model = TransferConfirmed
    elif name == "balance_changed":
        model = BalanceChanged
    elif name in _PROGRESS:
        model = IntentProgress
    return read_event(model, {**fields, "event": name, "subject": subject})


def _subject(fields: dict[str, Any]) -> str | None:
    given = fields.get("intentId", fields.get("watchId"))
    return given if isinstance(given, str) and _SUBJECT.fullmatch(given) else None
