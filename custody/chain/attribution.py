"""Whose a transfer is: the payment that an arrival is booked to, and why (L1, L11). Any number for a statement or two."""

from collections.abc import Collection, Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.facts import Arrival
from custody.payments.standing import OPEN_STATUSES

Basis = Literal["reference", "only_open", "newest"]
"""Why a fact is this payment's (L11). ``newest`` is a guess: its money goes to suspense."""

Attribution = tuple[UUID, Basis]


def attribute(
    connection: Connection, wanted: Collection[tuple[UUID, str | None]]
) -> dict[tuple[UUID, str | None], Attribution | None]:
    """The payment that transfers are for, each by its destination and reference topic; None: the address has no payment.

    By the proxy's reference; else the one open payment on the address; else the newest. A reference counts
    only at its own address: it is a hash over that address, so anywhere else it is a lie (L11).
    """
    routes: dict[UUID, list[Any]] = {}
    for row in connection.execute(
        text(
            """
            SELECT r.destination_id, r.payment_id, r.reference_topic, p.status::text AS status
            FROM fleet.payment_routes r JOIN public.payments p ON p.id = r.payment_id
            WHERE r.destination_id = ANY(:ids) ORDER BY r.created_at DESC, r.payment_id DESC
            """
        ),
        {"ids": list({destination_id for destination_id, _ in wanted})},
    ):
        routes.setdefault(row.destination_id, []).append(row)
    return {one: _of(routes.get(one[0], []), one[1]) for one in wanted}


def _of(routes: Sequence[Any], reference_topic: str | None) -> Attribution | None:
    if not routes:
        return None
    if reference_topic is not None:
        for route in routes:
            if route.reference_topic is not None and route.reference_topic.lower() == reference_topic:
                return route.payment_id, "reference"
    open_ones = [route.payment_id for route in routes if route.status in OPEN_STATUSES]
    if len(open_ones) == 1:
        return open_ones[0], "only_open"
    return routes[0].payment_id, "newest"


def earlier_attributions(
    connection: Connection, chain_id: int, arrivals: Sequence[Arrival]
) -> dict[tuple[str, int], Attribution]:
    """Whose a dead incarnation of the same transfer was, and why, by transaction and place inside it.

    A reorganisation moves no money between payments, though their states may have changed meanwhile (L1).
    """
    rows = connection.execute(
        text(
            """
            SELECT a.hash, a.ordinal, earlier.payment_id, earlier.basis
            FROM unnest(CAST(:hashes AS text[]), CAST(:ordinals AS integer[]), CAST(:tokens AS text[]),
                    CAST(:destinations AS uuid[])) AS a (hash, ordinal, token, destination)
                CROSS JOIN LATERAL (
                    SELECT f.payment_id, e.metadata ->> 'attribution' AS basis
                    FROM fleet.chain_facts f JOIN public.funds_ledger_entries e
                        ON e.fact_id = f.id AND e.entry_type = 'payment_detected'
                    WHERE f.chain_id = :chain_id AND f.transaction_hash = a.hash AND f.tx_ordinal = a.ordinal
                        AND NOT f.live AND f.token = a.token AND f.destination_id = a.destination
                    ORDER BY f.incarnation DESC LIMIT 1) AS earlier
            """
        ),
        {
            "chain_id": chain_id,
            "hashes": [one.inbound.transfer.transaction_hash for one in arrivals],
            "ordinals": [one.inbound.tx_ordinal for one in arrivals],
            "tokens": [one.token for one in arrivals],
            "destinations": [one.destination.id for one in arrivals],
        },
    )
    return {(row.hash, row.ordinal): (row.payment_id, row.basis) for row in rows}


def attribution_of(connection: Connection, fact_id: UUID) -> Attribution | None:
    """Whose a fact was booked as, and why; None while it is nobody's."""
    row = connection.execute(
        text(
            "SELECT payment_id, metadata ->> 'attribution' AS basis FROM public.funds_ledger_entries "
            "WHERE fact_id = :id AND entry_type = 'payment_detected'"
        ),
        {"id": fact_id},
    ).one_or_none()
    return None if row is None else (row.payment_id, row.basis)
