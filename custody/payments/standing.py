"""How much of what a payment expects is held, and the state that follows from it.

Amounts are Decimal in whole tokens of the payment's primary asset (L10).
"""

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


def route_of(connection: Connection, payment_id: UUID) -> Route:
    """The payment's route. Raises LookupError: a payment without one can receive nothing."""
    row = connection.execute(
        text("SELECT payment_id, chain_id, token, expected FROM fleet.payment_routes WHERE payment_id = :id"),
        {"id": payment_id},
    ).one_or_none()
    if row is None:
        raise LookupError(f"payment {payment_id} has no route")
    return Route(row.payment_id, row.chain_id, row.token, row.expected)


def held_ever(connection: Connection, route: Route) -> Decimal:
    """What was ever held of the payment and not taken back by a reorganisation, whole tokens.

    From the entries, not from the balance: what was held and then promised or paid out is no longer due.
    Counted are holds, accepted suspense, and their reversals; disputes and voids only move it about.
    """
    return connection.execute(
        text(
            """
            SELECT coalesce(sum(CASE
                WHEN credit IN ('held', 'disputed')
                    AND (entry_type = 'hold' OR entry_type = 'adjustment' AND reason = 'accepted')
                    THEN amount
                WHEN debit IN ('held', 'disputed') AND credit IN ('detected', 'suspense')
                    AND entry_type = 'adjustment' AND reason = 'reorg' THEN -amount
                ELSE 0 END), 0)
            FROM public.funds_ledger_entries WHERE book_id = :id AND chain_id = :chain_id AND token = :token
            """
        ),
        {"id": route.payment_id, "chain_id": route.chain_id, "token": route.token},
    ).scalar_one()


def settle_state(connection: Connection, payment_id: UUID) -> PaymentState:
    """Bring the payment's state to what the live facts and the ledger say, after facts came or went.

    A transfer of another asset, or one that is this payment's by a guess only (L11), pays nothing and moves
    nothing. The caller holds the payment's row. A payment past holding (releasing, released, refunded) or closed keeps
    its state. A payment whose buyer opened another one meanwhile cannot be pending again: it stays
    ``processing``.
    """
    route = route_of(connection, payment_id)
    state = lock_payment(connection, payment_id)
    if state.escrow in _HOLDING:
        held = held_ever(connection, route)
        if held < route.expected and not (state.escrow == "partial" and held > 0):
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
