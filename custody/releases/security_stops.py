"""Payments that an open security gap pauses (R7): what of them is out is cancelled, and drafted again once the gap is closed.

What is not handed out waits where it is (custody/store/security_pauses.py says why). What is out is R1's matter: as for a
dispute, its cancel is asked, so that neither its nonce nor the treasury's next payouts wait for people to agree.
"""

from typing import Final

import structlog
from sqlalchemy import Engine, text

from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.fees import NO_FEES, FeeRates
from custody.releases.instructions import PART, draft_again
from custody.releases.requests import RequestRefused, ask
from custody.releases.states import SIGNATURE_MAY_EXIST
from custody.settings.chains import Chains
from custody.store.engine import transaction
from custody.store.security_pauses import REASON, why_paused

log = structlog.get_logger(__name__)

BY: Final = "security_gaps"
"""Who asks for these cancels; fleet.release_requests has an index of them."""

_OUT: Final = text(
    """
    SELECT DISTINCT ON (coalesce(i.group_id, i.id)) coalesce(i.group_id, i.id) AS id, i.id AS part, i.payment_id, s.gap_id
    FROM fleet.release_instructions i CROSS JOIN LATERAL (
        SELECT p.gap_id FROM fleet.security_pauses_of(ARRAY[i.payment_id]) p ORDER BY p.since, p.gap_id LIMIT 1) s
    WHERE i.purpose <> 'drain' AND i.state IN ('handed_out', 'signed', 'broadcast') AND NOT EXISTS (
        SELECT FROM fleet.release_requests r
        WHERE r.instruction_id = coalesce(i.group_id, i.id) AND r.kind = 'cancel' AND r.state = 'received')
    ORDER BY coalesce(i.group_id, i.id), i.id LIMIT :limit
    """
)
_READY: Final = text(
    """
    SELECT i.id, i.payment_id FROM fleet.release_instructions i
    WHERE i.state = 'ready' AND i.group_id IS NULL AND i.payment_id IS NOT NULL AND i.purpose <> 'drain'
      AND NOT starts_with(coalesce(i.held_reason, ''), :reason)
      AND EXISTS (SELECT FROM fleet.security_pauses_of(ARRAY[i.payment_id])) ORDER BY i.id LIMIT :limit
    """
)
# Of a group that was cancelled each payment goes on by itself, those that no gap concerns at once.
_CANCELLED: Final = """
    FROM fleet.release_requests r CROSS JOIN LATERAL (
        SELECT o.* FROM fleet.release_instructions o WHERE o.id = r.instruction_id AND o.payment_id IS NOT NULL
        UNION ALL SELECT m.* FROM fleet.release_instructions m WHERE m.group_id = r.instruction_id) i
    WHERE r.requested_by = 'security_gaps' AND r.kind = 'cancel' AND i.state IN ('cancelled', 'expired')
      AND NOT EXISTS (SELECT FROM fleet.security_pauses_of(ARRAY[i.payment_id]))
"""
_RELEASES: Final = text(
    f"""
    SELECT i.payment_id, i.cause {_CANCELLED}
      AND i.purpose = 'release' AND NOT starts_with(i.request_key, :part)
      AND EXISTS (SELECT FROM fleet.ledger_balances b
                  WHERE b.book_id = i.payment_id AND b.chain_id = i.chain_id AND b.token = i.token AND b.held > 0
                    AND b.dispute_open = 0 AND b.treasury - b.releasing - b.refunding - b.paying_fees >= b.held)
      AND NOT EXISTS (SELECT FROM fleet.release_instructions o WHERE o.payment_id = i.payment_id
                      AND o.purpose = 'release' AND (o.created_at, o.id) > (i.created_at, i.id))
    ORDER BY i.updated_at LIMIT :limit
    """  # noqa: S608 - the conditions are the constant above
)
_REFUNDS: Final = text(
    f"""
    UPDATE fleet.refund_orders u SET instruction_id = NULL, held_reason = NULL, attempts = 0, run_after = clock_timestamp()
    WHERE u.instruction_id IN (SELECT i.id {_CANCELLED} AND i.purpose = 'refund') RETURNING u.payment_id
    """  # noqa: S608 - the conditions are the constant above
)


def stop_paused(engine: Engine, limit: int) -> int:
    """Ask for the cancel of at most ``limit`` instructions that are out and whose payment is paused; how many were asked.

    What is ready says why it waits.
    """
    with transaction(engine) as connection:
        found = connection.execute(_OUT, {"limit": limit}).all()
        for each in connection.execute(_READY, {"limit": limit, "reason": REASON}).all():
            if (why := why_paused(connection, each.payment_id)) is not None:
                rows.note(connection, each.id, why)
    asked = 0
    for each in found:
        with transaction(engine) as connection:
            instruction = rows.lock(connection, each.id)
            if instruction.state not in SIGNATURE_MAY_EXIST or instruction.state == "cancelling":
                continue
            why = f"security gap {each.gap_id} of payment {each.payment_id} is open"
            try:
                asked += ask(connection, each.id, "cancel", reason=why, by=BY)
            except RequestRefused:
                continue  # it ended meanwhile
            for one in {each.id, each.part}:
                rows.note(connection, one, f"waits_for_cancel: {why}; its cancel is prepared (R1).")
        log.warning(
            "release_paused", instruction_id=str(each.id), payment_id=str(each.payment_id), gap=str(each.gap_id)
        )
    return asked


def draft_after_gaps(
    engine: Engine, chains: Chains, limit: int, *, book: AddressBook | None = None, rates: FeeRates = NO_FEES
) -> int:
    """Draft again what was cancelled for a security gap that two persons have closed; how many were.

    Parts and fees are their operator's to order again. ``book``, ``rates``: see release_gate.
    """
    with transaction(engine) as connection:
        found = connection.execute(_RELEASES, {"limit": limit, "part": PART}).all()
        ordered = len(connection.execute(_REFUNDS).all())
    return ordered + draft_again(engine, chains, found, book=book, rates=rates)
