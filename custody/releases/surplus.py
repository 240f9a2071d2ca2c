"""What a buyer paid too much is ordered back by itself (L7, R21): one order a transfer, to an address of R21 like any."""

from decimal import Decimal
from typing import Final

import structlog
from sqlalchemy import Engine, text

from custody.releases.refunds import order_refund
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

BY: Final = "the fleet"

# Only ``surplus``: late, sanctioned and wrong-token money is for people. What is still in suspense, of live transfers.
_FIND: Final = text(
    """
    SELECT e.id, e.book_id, e.amount FROM public.funds_ledger_entries e
    JOIN fleet.payment_routes r ON r.payment_id = e.book_id AND r.chain_id = e.chain_id AND r.token = e.token
    JOIN fleet.ledger_balances b ON b.book_id = e.book_id AND b.chain_id = e.chain_id AND b.token = e.token
    JOIN public.payments p ON p.id = e.book_id
    WHERE e.entry_type = 'adjustment' AND e.reason = 'surplus' AND e.credit = 'suspense' AND e.amount >= :minimum
      AND b.suspense - fleet.sanctioned_of(b.book_id, b.chain_id, b.token) >= e.amount AND b.dispute_open = 0 AND p.status <> 'processing'
      AND NOT EXISTS (SELECT FROM fleet.refund_orders o WHERE o.payment_id = e.book_id AND o.cause = 'surplus:' || e.id)
    ORDER BY e.created_at LIMIT :limit
    """
)


def order_surplus(engine: Engine, minimum: Decimal, limit: int) -> int:
    """Order back each surplus of at least ``minimum`` whole tokens; how many were ordered."""
    with transaction(engine) as connection:
        found = connection.execute(_FIND, {"minimum": minimum, "limit": limit}).all()
        for row in found:
            order_refund(
                connection, row.book_id, amount=row.amount, source="suspense", cause=f"surplus:{row.id}", by=BY
            )
            log.info("surplus_ordered_back", payment_id=str(row.book_id), amount=f"{row.amount:f}")
    return len(found)
