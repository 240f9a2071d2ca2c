"""How much of what a payment expects is held, and the state that follows from it.

Amounts are Decimal in whole tokens of the payment's primary asset (L10).
"""

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from custody.payments.transitions import PaymentState, lock_payments, move_payments
from custody.store.outbox import mirror_all

log = structlog.get_logger(__name__)

OPEN_STATUSES: Final = frozenset({"pending", "processing"})
"""A payment in one of these still expects money."""

_HOLDING: Final = frozenset({"partial", "funded", "releasable"})


@dataclass(frozen=True, slots=True)
class Route:
    """Where a payment's money is expected: its primary asset, and ``expected`` > 0 whole tokens."""

    payment_id: UUID
    chain_id: int
    token: str
    expected: Decimal


@dataclass(frozen=True, slots=True)
class Standing:
    """What a payment's money is judged by: its route, what of it was ever held, and how many disputes are open."""

    route: Route
    held: Decimal
    disputes_open: int


# Held ever is from the entries, not from the balance: what was held and then promised or paid out is no longer due.
# Counted are holds, accepted suspense, and their reversals; disputes and voids only move it about.
_STANDINGS: Final = text(
    """
    SELECT r.payment_id, r.chain_id, r.token, r.expected, coalesce((
            SELECT sum(CASE
                WHEN e.credit IN ('held', 'disputed')
                    AND (e.entry_type = 'hold' OR e.entry_type = 'adjustment' AND e.reason = 'accepted')
                    THEN e.amount
                WHEN e.debit IN ('held', 'disputed') AND e.credit IN ('detected', 'suspense')
                    AND e.entry_type = 'adjustment' AND e.reason = 'reorg' THEN -e.amount
                ELSE 0 END)
            FROM public.funds_ledger_entries e
            WHERE e.book_id = r.payment_id AND e.chain_id = r.chain_id AND e.token = r.token), 0) AS held,
        coalesce((
            SELECT b.dispute_open FROM fleet.ledger_balances b
            WHERE b.book_id = r.payment_id AND b.chain_id = r.chain_id AND b.token = r.token), 0) AS disputes_open
    FROM fleet.payment_routes r WHERE r.payment_id = ANY(:ids)
    """
)


def standings(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, Standing]:
    """The standing of each payment, in one statement. Raises LookupError: without a route it can receive nothing."""
    found = {
        row.payment_id: Standing(
            Route(row.payment_id, row.chain_id, row.token, row.expected), row.held, row.disputes_open
        )
        for row in connection.execute(_STANDINGS, {"ids": list(payment_ids)})
    }
    for payment_id in payment_ids:
        if payment_id not in found:
            raise LookupError(f"payment {payment_id} has no route")
    return found


def settle_state(connection: Connection, payment_id: UUID) -> PaymentState:
    """``settle_states`` of one payment."""
    return settle_states(connection, [payment_id])[payment_id]


def settle_states(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, PaymentState]:
    """Bring payments' states to what the live facts and the ledger say, after facts came or went; return the states.

    A transfer of another asset, or one that is a payment's by a guess only (L11), pays nothing and moves
    nothing. The caller holds the payments' rows. A payment past holding (releasing, released, refunded) or closed keeps
    its state. A payment whose buyer opened another one meanwhile cannot be pending again: it stays
    ``processing``. Raises LookupError, TransitionRefused.
    """
    if not payment_ids:
        return {}
    states = lock_payments(connection, payment_ids)
    standing = standings(connection, payment_ids)
    short = {
        payment_id: standing[payment_id].held
        for payment_id, state in states.items()
        if state.escrow in _HOLDING
        and standing[payment_id].held < standing[payment_id].route.expected
        and not (state.escrow == "partial" and standing[payment_id].held > 0)
    }
    states = move_payments(connection, states, dict.fromkeys(short, "unheld"))
    part_held = dict.fromkeys((payment_id for payment_id, held in short.items() if held > 0), "part_held")
    states = move_payments(connection, states, part_held)
    waiting = [
        payment_id for payment_id, state in states.items() if state.status in OPEN_STATUSES and state.escrow is None
    ]
    paid = _paid(connection, waiting)
    seen = {payment_id: "detected" for payment_id in waiting if payment_id in paid}
    states = move_payments(
        connection, states, {one: move for one, move in seen.items() if states[one].status == "pending"}
    )
    for payment_id in sorted({*waiting} - paid):
        if states[payment_id].status == "processing":
            states |= _back_to_pending(connection, payment_id, states[payment_id])
    _show_first_transfers(connection, payment_ids)
    mirror_all(connection, "payments", sorted(payment_ids))
    return states


def _paid(connection: Connection, payment_ids: Collection[UUID]) -> set[UUID]:
    """Those to which a live transfer of what they expect is surely due."""
    if not payment_ids:
        return set()
    rows = connection.execute(
        text(
            """
            SELECT r.payment_id FROM fleet.payment_routes r
            WHERE r.payment_id = ANY(:ids) AND EXISTS (
                SELECT FROM fleet.chain_facts f JOIN public.funds_ledger_entries e
                    ON e.fact_id = f.id AND e.entry_type = 'payment_detected'
                    AND e.metadata ->> 'attribution' IS DISTINCT FROM 'newest'
                WHERE f.payment_id = r.payment_id AND f.live AND f.direction = 'inbound'
                    AND f.chain_id = r.chain_id AND f.token = r.token)
            """
        ),
        {"ids": list(payment_ids)},
    )
    return {*rows.scalars()}


def _back_to_pending(connection: Connection, payment_id: UUID, state: PaymentState) -> dict[UUID, PaymentState]:
    try:
        with connection.begin_nested():
            return move_payments(connection, {payment_id: state}, {payment_id: "undetected"})
    except IntegrityError:
        # uniq_pending_request_network_by_buyer_session: one pending payment a buyer and offer.
        log.warning("payment_kept_processing", payment_id=str(payment_id), reason="another one is pending")
        return {payment_id: state}


def _show_first_transfers(connection: Connection, payment_ids: Collection[UUID]) -> None:
    """The transaction and sender that the backend shows: the first live transfer of the expected asset."""
    connection.execute(
        text(
            """
            UPDATE public.payments p
            SET transaction_hash = first.transaction_hash, sender = first.sender, updated_at = clock_timestamp()
            FROM (
                SELECT r.payment_id, f.transaction_hash, f.sender
                FROM fleet.payment_routes r LEFT JOIN LATERAL (
                    SELECT transaction_hash, sender FROM fleet.chain_facts
                    WHERE payment_id = r.payment_id AND live AND direction = 'inbound'
                        AND log_index <> -2  -- known by its balance (L8)
                    ORDER BY (chain_id = r.chain_id AND token = r.token) DESC, block_number, log_index LIMIT 1
                ) AS f ON true
                WHERE r.payment_id = ANY(:ids)
            ) AS first
            WHERE p.id = first.payment_id
            """
        ),
        {"ids": list(payment_ids)},
    )
