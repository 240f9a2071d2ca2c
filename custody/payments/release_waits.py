"""What a payment's payout waits for: its instructions, its disputes, its refunds (part of ``fleet explain``)."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from custody.payments.chain_waits import Wait


def waits_for_release(connection: Connection, payment: Any) -> Iterator[Wait]:
    """What each open instruction waits for; without one, what its draft waits for."""
    instructions = connection.execute(
        text(
            # One that is paid with others waits for what its group waits for (R23).
            """
            SELECT coalesce(g.id, i.id) AS id, i.purpose, i.state, coalesce(g.held_reason, i.held_reason) AS held_reason,
                coalesce(g.rejected_reason, i.rejected_reason) AS rejected_reason, i.created_at, i.handed_out_at, i.signed_at, (
                SELECT count(*) FROM fleet.release_instructions m WHERE m.group_id = g.id) AS together
            FROM fleet.release_instructions i LEFT JOIN fleet.release_instructions g ON g.id = i.group_id
            WHERE i.payment_id = :id AND i.state NOT IN ('final', 'cancelled', 'expired', 'failed') ORDER BY i.created_at
            """
        ),
        {"id": payment.id},
    ).all()
    for row in instructions:
        reason = f": {row.held_reason}" if row.held_reason else ""
        if row.together:
            reason += f" (one transfer for {row.together} payments: fleet releases show {row.id})"
        if row.state == "handed_out":
            said = f" (refused on the device: {row.rejected_reason})" if row.rejected_reason else ""
            with_others = f" of {row.together} payments at once, group {row.id}" if row.together else ""
            yield Wait(
                f"the signer's approval{with_others} on the treasury device{said}",
                row.handed_out_at,
                "fleet signer sign",
            )
        elif row.state == "cancelling":
            yield Wait(
                f"the {row.purpose} is being cancelled{reason}",
                row.handed_out_at,
                f"the signer's approval of the cancel, then the chain: fleet signer sign {row.id}",
            )
        elif row.state in {"signed", "broadcast"}:
            yield Wait(
                f"its {row.purpose} transaction is {row.state}{reason}", row.signed_at, "the chain's next blocks"
            )
        else:
            yield Wait(
                f"its {row.purpose} is {row.state}{reason}",
                row.created_at,
                "the instruction before it on the device",
            )
    if not instructions and payment.status_text == "confirmed" and not _is_decided_elsewhere(connection, payment.id):
        request = connection.execute(
            text("SELECT status::text AS status, updated_at FROM public.purchase_requests WHERE id = :id"),
            {"id": payment.purchase_request_id},
        ).one_or_none()
        if request is not None and request.status not in {"completed", "seller_paid"}:
            yield Wait(
                f"the purchase request is {request.status}",
                request.updated_at,
                "the buyer confirms the delivery",
            )
        else:
            yield from _waits_for_draft(connection, payment)


def waits_for_disputes(connection: Connection, payment_id: UUID) -> Iterator[Wait]:
    """Open disputes, what their end left to be drafted, and refunds that have no address yet (R14, R21)."""
    for row in connection.execute(
        text(
            "SELECT dispute_id, state, held_reason, opened_at, closed_at FROM fleet.payment_disputes "
            "WHERE payment_id = :id AND (state = 'open' OR release_due) ORDER BY opened_at"
        ),
        {"id": payment_id},
    ):
        reason = f": {row.held_reason}" if row.held_reason else ""
        if row.state == "open":
            yield Wait(f"dispute {row.dispute_id} is open{reason}", row.opened_at, "its resolution in the marketplace")
        else:
            yield Wait(
                f"the seller's part after dispute {row.dispute_id}{reason}", row.closed_at, "what the reason names"
            )
    for row in connection.execute(
        text(
            "SELECT amount, held_reason, ordered_at FROM fleet.refund_orders "
            "WHERE payment_id = :id AND instruction_id IS NULL ORDER BY ordered_at"
        ),
        {"id": payment_id},
    ):
        yield Wait(
            f"a refund of {row.amount.normalize():f}: {row.held_reason or 'not drafted yet'}",
            row.ordered_at,
            "the buyer's signature: fleet releases refund-address PAYMENT",
        )


def _is_decided_elsewhere(connection: Connection, payment_id: UUID) -> bool:
    """Whether a dispute or a refund order says what happens next."""
    return next(waits_for_disputes(connection, payment_id), None) is not None


def _waits_for_draft(connection: Connection, payment: Any) -> Iterator[Wait]:
    """The worker drafts a payment's first release; after one that failed, people decide on another."""
    ended = connection.execute(
        text(
            "SELECT state, held_reason, updated_at FROM fleet.release_instructions "
            "WHERE payment_id = :id AND purpose = 'release' ORDER BY created_at DESC LIMIT 1"
        ),
        {"id": payment.id},
    ).one_or_none()
    if ended is None:
        yield Wait("the releases worker has not drafted its release", None, "the next pass, each second")
    else:
        yield Wait(
            f"its release {ended.state}: {ended.held_reason or 'no reason given'}",
            ended.updated_at,
            "an operator, once its reason is understood: fleet release PAYMENT --again",
        )


def waits_for_sanctions(connection: Connection, payment_id: UUID) -> Iterator[Wait]:
    """What of a payment's money is locked, for ``fleet explain``."""
    rows = connection.execute(
        text(
            """
            SELECT t.symbol, fleet.sanctioned_of(b.book_id, b.chain_id, b.token) AS locked, b.chain_id, ARRAY(
                SELECT DISTINCT f.sender FROM public.funds_ledger_entries e JOIN fleet.chain_facts f ON f.id = e.fact_id
                WHERE e.book_id = b.book_id AND e.chain_id = b.chain_id AND e.token = b.token
                  AND e.reason = 'sanctioned' ORDER BY f.sender) AS senders
            FROM fleet.ledger_balances b JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
            WHERE b.book_id = :id AND b.suspense > 0 ORDER BY t.symbol
            """
        ),
        {"id": payment_id},
    )
    for row in rows:
        if row.locked > 0:
            yield Wait(
                f"{row.locked.normalize():f} {row.symbol} came from {', '.join(row.senders)}, whom a sanctions list names: "
                "locked, never released (R13)",
                None,
                f"nothing, while the sender is named: fleet sanctions check; fleet sanctions delist --chain {row.chain_id}",
            )
