"""Which payment an event means, and what becomes of its delivery. No amount in an event decides."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.providers.request_network.events import Event, PayingEvent, UnknownEvent
from custody.providers.verdict import Look, Verdict

__all__ = ["Look", "PaymentRoute", "Routes", "Verdict", "judge", "link"]


@dataclass(frozen=True, slots=True)
class PaymentRoute:
    """Where a payment's money is expected, as far as an event can contradict it."""

    payment_id: UUID
    chain_id: int
    request_id: str | None
    payment_reference: str | None


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes that a batch of events may mean, by what events name them by."""

    by_request_id: Mapping[str, PaymentRoute]
    by_reference: Mapping[str, PaymentRoute]


_ROUTES: Final = text(
    """
    SELECT payment_id, chain_id, request_id, payment_reference FROM fleet.payment_routes
    WHERE request_id = ANY(:request_ids) OR payment_reference = ANY(:references)
    """
)


def link(connection: Connection, events: Sequence[Event]) -> list[Verdict]:
    """One verdict an event, in their order. None of them is a test."""
    routes = _find_routes(connection, events)
    return [judge(event, routes) for event in events]


def judge(event: Event, routes: Routes) -> Verdict:
    """Decide what becomes of a delivery that is no test."""
    if isinstance(event, UnknownEvent):
        return Verdict("unknown_event", f"{event.event} is no event known here: kept as it is", event.event)
    if isinstance(event, PayingEvent):
        return _judge_paying(event, routes)
    route, _ = _find(event, routes)
    payment_id = route.payment_id if route is not None else None
    return Verdict("kept", f"{event.base} moves nothing here", event.event, payment_id)


def _judge_paying(event: PayingEvent, routes: Routes) -> Verdict:
    route, contradiction = _find(event, routes)
    if contradiction is not None:
        return Verdict("mismatched", contradiction, event.event)
    if route is None:
        if event.request_id is None and event.payment_reference is None:
            reason = f"{event.base} names neither requestId nor paymentReference: expected at least one"
            return Verdict("malformed", reason, event.event)
        return Verdict("unknown_request", f"no payment has {_names(event)}", event.event)
    if event.chain_id is not None and event.chain_id != route.chain_id:
        reason = (
            f"the event says network {event.network} (chain {event.chain_id}), "
            f"the payment is expected on chain {route.chain_id}"
        )
        return Verdict("mismatched", reason, event.event, route.payment_id)
    if event.tx_hash is None:
        reason = f"{event.base} names no transaction: nothing to look at until one is known"
        return Verdict("no_transaction", reason, event.event, route.payment_id)
    # The chain is the route's, never the event's: a name in an event is no proof of where coins moved.
    look = Look(route.chain_id, event.tx_hash, route.payment_id)
    reason = f"asked for a look at {event.tx_hash} on chain {route.chain_id}"
    return Verdict("linked", reason, event.event, route.payment_id, look)


def _names(event: Event) -> str:
    parts = (("request id", event.request_id), ("payment reference", event.payment_reference))
    return " or ".join(f"{name} {value}" for name, value in parts if value is not None)


def _find(event: Event, routes: Routes) -> tuple[PaymentRoute | None, str | None]:
    """The one route that the event means, or None and what in the event contradicts that there is one."""
    by_id = routes.by_request_id.get(event.request_id or "")
    by_reference = routes.by_reference.get(event.payment_reference or "")
    if by_id is not None and by_reference is not None and by_id.payment_id != by_reference.payment_id:
        return None, (
            f"requestId is that of payment {by_id.payment_id}, "
            f"paymentReference that of payment {by_reference.payment_id}"
        )
    route = by_id or by_reference
    if route is None:
        return None, None
    for name, said, ours in (
        ("requestId", event.request_id, route.request_id),
        ("paymentReference", event.payment_reference, route.payment_reference),
    ):
        if said is not None and ours is not None and said != ours:
            return None, f"{name} is {said}, that of payment {route.payment_id} is {ours}"
    return route, None


def _find_routes(connection: Connection, events: Sequence[Event]) -> Routes:
    request_ids = _distinct(event.request_id for event in events)
    references = _distinct(event.payment_reference for event in events)
    if not request_ids and not references:
        return Routes({}, {})
    rows = connection.execute(_ROUTES, {"request_ids": request_ids, "references": references})
    routes = [PaymentRoute(*row) for row in rows]
    return Routes(
        {route.request_id: route for route in routes if route.request_id is not None},
        {route.payment_reference: route for route in routes if route.payment_reference is not None},
    )


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})
