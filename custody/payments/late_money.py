"""Late money: what came for a closed payment, and whether its address waits for people (R13).

It is always in the payment's own book, in suspense; here only the address is marked, so that somebody looks.
"""

from decimal import Decimal
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE
from custody.payments.standing import Route
from custody.store.outbox import mirror

log = structlog.get_logger(__name__)

CLOSED_STATUSES: Final = frozenset({"failed", "cancelled", "refunded", "completed"})
"""A payment in one of these expects no money any more: what comes for it is late."""

DUST_SHARE: Final = Decimal("0.01")
"""R13: less than 1 % of what was expected keeps nobody's address from being swept."""

DUST_TOKENS: Final = Decimal(1)
"""R13: nor does less than one unit. Not said of native coin, of which one unit is no dust."""

_QUARANTINE: Final = text(
    """
    UPDATE public.derived_destinations d
    SET status = 'quarantined', quarantine_reason = :reason, updated_at = clock_timestamp()
    WHERE d.id = :id AND d.status <> 'quarantined' AND NOT EXISTS (
        SELECT FROM fleet.payment_routes r JOIN public.payments p ON p.id = r.payment_id
        WHERE r.destination_id = d.id AND NOT p.status::text = ANY(:closed))
    RETURNING d.address
    """
)


def is_dust(token: str, amount: Decimal, expected: Decimal) -> bool:
    """Whether ``amount`` (whole tokens) is too little to keep an address back (R13)."""
    least = expected * DUST_SHARE
    return amount < (least if token == NATIVE else max(least, DUST_TOKENS))


def quarantine_late(
    connection: Connection, route: Route, destination_id: UUID | None, *, token: str, amount: Decimal, status: str
) -> bool:
    """Mark the address of late money for an operator; the caller holds its row (L17). True if it was marked.

    Not for dust, and not while another payment at the address is open or holds money: an honest buyer's coins would
    be frozen with it (R13). A mark that stands keeps its reason.
    """
    if destination_id is None or is_dust(token, amount, route.expected):
        return False
    reason = f"late: {amount.normalize():f} of {token} came for payment {route.payment_id}, which is {status}"
    address = connection.execute(
        _QUARANTINE, {"id": destination_id, "reason": reason, "closed": sorted(CLOSED_STATUSES)}
    ).scalar_one_or_none()
    if address is None:
        return False
    mirror(connection, "deriveddestinations", destination_id)
    log.warning("destination_quarantined", address=address, payment_id=str(route.payment_id), reason=reason)
    return True
