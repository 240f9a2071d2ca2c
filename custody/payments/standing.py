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

from custody.payments.transitions import PaymentState, lock_payment, move_payment
from custody.store.outbox import mirror

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
    """Bring the payment's state to what the live facts and the ledger say, after facts came or went.

    A transfer of another asset, or one that is this payment's by a guess only (L11), pays nothing and moves
    nothing. The caller holds the payment's row. A payment past holding (releasing, released, refunded) or closed keeps
    its state. A payment whose buyer opened another one meanwhile cannot be pending again: it stays
    ``processing``.
    """
    state = lock_payment(connection, payment_id)
    standing = standings(connection, [payment_id])[payment_id]
    route, held = standing.route, standing.held
    if state.escrow in _HOLDING and held < route.expected and not (state.escrow == "partial" and held > 0):
        state = move_payment(connection, payment_id, "unheld")
        if held > 0:
            state = move_payment(connection, payment_id, "part_held")
    if state.status in OPEN_STATUSES and state.escrow is None:
        expects = connection.execute(
            text(
                """
                SELECT EXISTS (
                    SELECT FROM fleet.chain_facts f JOIN public.funds_ledger_entries e
                        ON e.fact_id = f.id AND e.entry_type = 'payment_detected'
                        AND e.metadata ->> 'attribution' IS DISTINCT FROM 'newest'
                    WHERE f.payment_id = :id AND f.live AND f.direction = 'inbound'
                        AND f.chain_id = :chain_id AND f.token = :token)
                """
            ),
            {"id": payment_id, "chain_id": route.chain_id, "token": route.token},
        ).scalar_one()
        if expects and state.status == "pending":
            state = move_payment(connection, payment_id, "detected")
        elif not expects and state.status == "processing":
            state = _back_to_pending(connection, payment_id, state)
    _show_first_transfer(connection, route)
    mirror(connection, "payments", payment_id)
    return state


def _back_to_pending(connection: Connection, payment_id: UUID, state: PaymentState) -> PaymentState:
    try:
        with connection.begin_nested():
            return move_payment(connection, payment_id, "undetected")
    except IntegrityError:
        # uniq_pending_request_network_by_buyer_session: one pending payment a buyer and offer.
        log.warning("payment_kept_processing", payment_id=str(payment_id), reason="another one is pending")
        return state


def _show_first_transfer(connection: Connection, route: Route) -> None:
    """The transaction and sender that the backend shows: the first live transfer of the expected asset."""
    connection.execute(
        text(
            """
            UPDATE public.payments p
            SET transaction_hash = f.transaction_hash, sender = f.sender, updated_at = clock_timestamp()
            FROM (SELECT 1) AS once LEFT JOIN LATERAL (
                SELECT transaction_hash, sender FROM fleet.chain_facts
                WHERE payment_id = :id AND live AND direction = 'inbound' AND log_index <> -2  -- known by its balance (L8)
                ORDER BY (chain_id = :chain_id AND token = :token) DESC, block_number, log_index LIMIT 1
            ) AS f ON true
            WHERE p.id = :id
            """
        ),
        {"id": route.payment_id, "chain_id": route.chain_id, "token": route.token},
    )
