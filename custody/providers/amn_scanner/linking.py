"""Which payment a scanner's event means, and what becomes of its delivery. No amount in an event credits anything.

The intent names the payment; whatever else the event says can only contradict the payment's own route.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.providers.amn_scanner.events import (
    BalanceChanged,
    ScannerEvent,
    TransferConfirmed,
    UnknownScannerEvent,
)
from custody.providers.verdict import Look, Verdict

NATIVE: Final = "native"
_NO_TOKEN: Final = "0x" + "0" * 40  # how a scanner of logs names a chain's own coin

_ROUTES: Final = text(
    """
    SELECT i.intent_id, r.payment_id, r.chain_id, r.token, t.decimals, r.expected, r.payment_reference, d.address
    FROM fleet.scanner_intents i
    JOIN fleet.payment_routes r ON r.payment_id = i.payment_id
    JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
    JOIN public.derived_destinations d ON d.id = r.destination_id
    WHERE i.intent_id = ANY(:subjects)
    """
)


@dataclass(frozen=True, slots=True)
class IntentRoute:
    """Where an intent's money is expected: ``expected`` in whole tokens."""

    payment_id: UUID
    chain_id: int
    token: str
    decimals: int
    expected: Decimal
    payment_reference: str | None
    address: str


def link(connection: Connection, events: Sequence[ScannerEvent]) -> list[Verdict]:
    """One verdict an event, in their order."""
    subjects = sorted({event.subject for event in events})
    rows = connection.execute(_ROUTES, {"subjects": subjects})
    routes = {row.intent_id: IntentRoute(*row[1:]) for row in rows}
    return [judge(event, routes) for event in events]


def judge(event: ScannerEvent, routes: Mapping[str, IntentRoute]) -> Verdict:
    """Decide what becomes of a delivery, given the routes by intent."""
    if isinstance(event, UnknownScannerEvent):
        return Verdict("unknown_event", f"{event.event} is no event known here: kept as it is", event.event)
    route = routes.get(event.subject)
    if route is None:
        return Verdict("unknown_request", f"no payment has intent {event.subject}", event.event)
    if not isinstance(event, TransferConfirmed | BalanceChanged):
        return Verdict("kept", f"{event.event} moves nothing here", event.event, route.payment_id)
    contradiction = _contradiction(event, route)
    if contradiction is not None:
        return Verdict("mismatched", contradiction, event.event, route.payment_id)
    if event.tx_hash is None:
        reason = f"{event.event} names no transaction: nothing to look at until one is known"
        return Verdict("no_transaction", reason, event.event, route.payment_id)
    # The chain is the route's, never the event's.
    look = Look(route.chain_id, event.tx_hash, route.payment_id)
    reason = f"asked for a look at {event.tx_hash} on chain {route.chain_id}"
    return Verdict("linked", reason, event.event, route.payment_id, look)


def _contradiction(event: TransferConfirmed | BalanceChanged, route: IntentRoute) -> str | None:
    """What in the event cannot be true of its payment, in an operator's words."""
    # An intent is for the exact amount, so a scanner confirms nothing else; a balance may grow in parts.
    units = event.amount if isinstance(event, TransferConfirmed) else None
    amount = None if units is None else to_amount(units, route.decimals)
    for name, said, ours in (
        ("chainId", event.chain_id, route.chain_id),
        ("token", _token(event.token), _token(route.token)),
        ("address", _address(event.address), _address(route.address)),
        ("paymentReference", event.payment_reference, route.payment_reference),
        ("amount", amount, route.expected.normalize()),
    ):
        if said is not None and ours is not None and said != ours:
            return f"{name} is {_shown(said)}, that of payment {route.payment_id} is {_shown(ours)}"
    return None


def _shown(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _token(token: str | None) -> str | None:
    named = _address(token)
    return NATIVE if named == _NO_TOKEN else named


def _address(address: str | None) -> str | None:
    """EVM addresses in one spelling; other chains' are exact."""
    return address.lower() if address is not None and address[:2] in {"0x", "0X"} else address
