"""What an operator may do about a delivery: have it read again, or end it. The raw body stays as it came."""

from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.store.outbox import ring

REASON_MAXIMUM: Final = 500  # characters: a sentence that a table shows

# Those that named the same transaction of the same payment are one thing to a person.
_SAME: Final = text(
    """
    SELECT d.id FROM fleet.webhook_deliveries d
    WHERE NOT d.is_test AND (d.id = :id OR d.id IN (
        SELECT o.id FROM fleet.webhook_deliveries w
        JOIN fleet.webhook_deliveries o ON o.look_id = w.look_id AND o.payment_id = w.payment_id
        WHERE w.id = :id))
    ORDER BY d.id FOR UPDATE
    """
)
_AGAIN: Final = text(
    """
    UPDATE fleet.webhook_deliveries SET state = 'received', attempts = 0, run_after = clock_timestamp()
    WHERE id = ANY(:ids)
    """
)
_CLOSE: Final = text(
    """
    UPDATE fleet.webhook_deliveries
    SET state = 'kept', reason = left(:reason || coalesce('; it was ' || state || ': ' || reason, ''), 2000)
    WHERE id = ANY(:ids)
    """
)
_RESOLVE: Final = text(
    """
    UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = 'operator'
    WHERE queue = 'webhooks' AND subject_kind = 'webhook_delivery' AND subject_id = :id AND resolved_at IS NULL
    """
)


class DeliveryUnknown(LookupError):
    """There is no delivery of that id that is no test."""


def settle(connection: Connection, delivery_id: UUID, how: Literal["again", "close"], reason: str = "") -> int:
    """Have a delivery read again, or end it as ``kept`` with a reason; with those that say the same. How many.

    Raises DeliveryUnknown, or ValueError for a reason that is missing or over REASON_MAXIMUM characters.
    """
    if how == "close" and not 0 < len(reason.strip()) <= REASON_MAXIMUM:
        raise ValueError(f"reason: expected 1 to {REASON_MAXIMUM} characters")
    same = list(connection.execute(_SAME, {"id": delivery_id}).scalars())
    if not same:
        raise DeliveryUnknown(f"there is no delivery {delivery_id}")
    if how == "close":
        connection.execute(_CLOSE, {"ids": same, "reason": f"closed by an operator: {reason}"})
    else:
        connection.execute(_AGAIN, {"ids": same})
        ring(connection, "webhooks")
    connection.execute(_RESOLVE, {"id": str(delivery_id)})
    return len(same)
