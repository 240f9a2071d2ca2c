"""Which payment a callback means, and what becomes of its delivery. No amount in a callback decides anything.

Only payments of SHKeeper are found by it. A payment of the past has no route of ours: then its own row says its chain.
SHKeeper's invoices are in fiat and paid within a tolerance, so an amount of its cannot contradict ours.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.providers.shkeeper.events import InvoiceEvent, InvoiceState, ShkeeperEvent, Unconfirmed
from custody.providers.verdict import Look, Verdict

CHAIN_IDS: Final[Mapping[str, int]] = MappingProxyType(
    {"ETH": 1, "BNB": 56, "MATIC": 137, "POLYGON": 137, "TRX": 728_126_428}
)
"""SHKeeper's names of networks, the first half of its ``crypto``. One not known here contradicts nothing."""

_ROUTES: Final = text(
    """
    SELECT named.external_id, p.id, coalesce(r.chain_id, p.chain_id) AS chain_id, t.symbol, d.address
    FROM unnest(CAST(:external_ids AS text[])) AS named (external_id)
    JOIN public.payments p ON p.provider = 'shkeeper'
        AND (p.provider_payment_id = named.external_id OR p.legacy_object_id = named.external_id)
    LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
    LEFT JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
    LEFT JOIN public.derived_destinations d ON d.id = r.destination_id
    """
)


@dataclass(frozen=True, slots=True)
class InvoiceRoute:
    """Where a payment's money is expected, as far as it is known."""

    payment_id: UUID
    chain_id: int | None
    symbol: str | None
    address: str | None


def link(connection: Connection, events: Sequence[ShkeeperEvent]) -> list[Verdict]:
    """One verdict an event, in their order."""
    names = sorted({event.external_id for event in events if isinstance(event, InvoiceEvent)})
    routes: defaultdict[str, list[InvoiceRoute]] = defaultdict(list)
    for row in connection.execute(_ROUTES, {"external_ids": names}):
        routes[row.external_id].append(InvoiceRoute(*row[1:]))
    return [judge(event, routes) for event in events]


def judge(event: ShkeeperEvent, routes: Mapping[str, Sequence[InvoiceRoute]]) -> Verdict:
    """Decide what becomes of a delivery, given the payments by what callbacks call them."""
    if not isinstance(event, InvoiceEvent):
        return Verdict("unknown_event", f"{event.event} is no event known here: kept as it is", event.event)
    found = routes.get(event.external_id, ())
    if len(found) > 1:
        reason = f"external_id {event.external_id} is that of {len(found)} payments: {found[0].payment_id} and others"
        return Verdict("mismatched", reason, event.event)
    if not found:
        return Verdict("unknown_request", f"no payment of SHKeeper has {event.external_id}", event.event)
    (route,) = found
    if not isinstance(event, InvoiceState | Unconfirmed):
        return Verdict("kept", f"{event.event} moves nothing here", event.event, route.payment_id)
    return _judge_moving(event, route)


def _judge_moving(event: InvoiceState | Unconfirmed, route: InvoiceRoute) -> Verdict:
    contradiction = _contradiction(event, route)
    if contradiction is not None:
        return Verdict("mismatched", contradiction, event.event, route.payment_id)
    transaction_hash = _transaction_hash(event)
    if transaction_hash is None:
        reason = f"{event.event} does not say which transaction it is about: nothing to look at until one is known"
        return Verdict("no_transaction", reason, event.event, route.payment_id)
    if route.chain_id is None:
        reason = f"payment {route.payment_id} has neither a route nor a chain: nowhere to look for {transaction_hash}"
        return Verdict("mismatched", reason, event.event, route.payment_id)
    look = Look(route.chain_id, transaction_hash, route.payment_id)
    reason = f"asked for a look at {transaction_hash} on chain {route.chain_id}"
    return Verdict("linked", reason, event.event, route.payment_id, look)


def _transaction_hash(event: InvoiceState | Unconfirmed) -> str | None:
    if isinstance(event, Unconfirmed):
        return event.txid
    return event.transaction.txid if event.transaction is not None else None


def _contradiction(event: InvoiceState | Unconfirmed, route: InvoiceRoute) -> str | None:
    """What in the callback cannot be true of its payment, in an operator's words."""
    transaction = event.transaction if isinstance(event, InvoiceState) else None
    # An invoice may change its coin; what moved is the transaction's.
    crypto = (transaction.crypto if transaction is not None else None) or event.crypto or ""
    network, _, symbol = crypto.partition("-")
    for name, said, ours in (
        ("network", CHAIN_IDS.get(network.upper()), route.chain_id),
        ("token", symbol.upper() or None, route.symbol.upper() if route.symbol else None),
        ("addr", event.addr.lower() if event.addr else None, route.address.lower() if route.address else None),
    ):
        if said is not None and ours is not None and said != ours:
            return f"{name} is {said} ({crypto}), that of payment {route.payment_id} is {ours}"
    return None
