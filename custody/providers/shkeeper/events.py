"""SHKeeper's callbacks, typed and open: the state of an invoice, a transaction not deep enough, an invoice run out.

Source: SHKeeper's README, "Receiving callback". One callback a transaction, each listing all of the invoice's; the one
it is about carries ``trigger``. Amounts are human decimals. There is no delivery id.
"""

import re
from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator

from custody.providers.events import (
    EVENT_NAME,
    HumanAmount,
    Identifier,
    MalformedEvent,
    Open,
    OpenEvent,
    TransactionHash,
    json_object,
    read_event,
)

_EXTERNAL_ID: Final = re.compile(r"[\x21-\x7e]{1,100}")
_INVOICE: Final = frozenset({"PAID", "PARTIAL", "OVERPAID"})


def _external_id(value: object) -> object:
    if not isinstance(value, str) or not _EXTERNAL_ID.fullmatch(value):
        raise ValueError("expected 1 to 100 printable ASCII characters")
    return value


class Transaction(Open):
    """One transaction of an invoice. ``amount_crypto`` in whole tokens of ``crypto``."""

    txid: TransactionHash = None
    trigger: bool = False
    crypto: Identifier = None
    amount_crypto: HumanAmount | None = None


class ShkeeperEvent(OpenEvent):
    """Any callback. ``event`` is what it calls its status."""


class InvoiceEvent(ShkeeperEvent):
    """A callback about an invoice. ``external_id``: what the marketplace called it; ``crypto`` such as ETH-USDT."""

    deciding: ClassVar[frozenset[str]] = frozenset({"external_id", "crypto", "addr"})

    external_id: Annotated[str, BeforeValidator(_external_id)]
    crypto: Identifier = None
    addr: Identifier = None


class InvoiceState(InvoiceEvent):
    """PAID, PARTIAL, OVERPAID: coins are said to have moved in the triggering transaction."""

    deciding: ClassVar[frozenset[str]] = frozenset({"external_id", "crypto", "addr", "transactions"})

    transactions: tuple[Transaction, ...] = ()
    paid: bool | None = None
    fiat: str | None = None
    balance_fiat: HumanAmount | None = None
    balance_crypto: HumanAmount | None = None

    @property
    def transaction(self) -> Transaction | None:
        """The one transaction that the callback is about, or None when it does not say which."""
        told = [one for one in self.transactions if one.trigger] or list(self.transactions)
        return told[0] if len(told) == 1 else None


class Unconfirmed(InvoiceEvent):
    """``unconfirmed``: a transaction was seen that SHKeeper does not count yet."""

    deciding: ClassVar[frozenset[str]] = frozenset({"external_id", "crypto", "addr", "txid"})

    txid: TransactionHash = None
    amount: HumanAmount | None = None


class InvoiceExpired(InvoiceEvent):
    """EXPIRED: nothing has moved in time."""


class UnknownShkeeperEvent(ShkeeperEvent):
    """A status without a name known here, as of a payout: kept as it is."""


def parse_event(body: bytes) -> ShkeeperEvent:
    """Read the callback in a raw body. Raises MalformedEvent, and nothing else, whatever the bytes."""
    fields = json_object(body)
    name = fields.get("status")
    if not isinstance(name, str) or not EVENT_NAME.fullmatch(name):
        raise MalformedEvent("status: expected the state of an invoice, such as PAID")
    model: type[ShkeeperEvent] = UnknownShkeeperEvent
    if name.upper() in _INVOICE:
        model = InvoiceState
    elif name.upper() == "UNCONFIRMED":
        model = Unconfirmed
    elif name.upper() == "EXPIRED":
        model = InvoiceExpired
    return read_event(model, {**fields, "event": name})
