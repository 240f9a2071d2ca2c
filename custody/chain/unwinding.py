"""Taking back what a reorganisation took: exact reversals, newest first, all of them or none (L1, L5)."""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection, text

from custody.chain.blocks import BlockHeader
from custody.chain.cursor import BookedMove, pause_chain
from custody.chain.facts import StandingFact
from custody.chain.looks import QUEUE
from custody.ledger import Entry, LedgerRefusal, post
from custody.store.work import bury

log = structlog.get_logger(__name__)


class CannotUnwind(Exception):
    """Money of a vanished fact has already moved on; nothing was reversed. The message says which."""


def unwind(connection: Connection, chain_id: int, gone: Sequence[StandingFact], replaced_by: BlockHeader | None) -> int:
    """Mark vanished facts dead and reverse their entries. Returns how many entries were reversed.

    ``replaced_by``: the block that now stands where the facts' block stood, for the evidence.
    Raises CannotUnwind when a reversal is refused; then none of them stands. Booking the loss instead
    (adjustment : reorg_loss, L5) is not done yet: the caller pauses the chain.
    """
    reversed_entries = 0
    fact: StandingFact | None = None
    try:
        with connection.begin_nested():
            for fact in sorted(gone, key=lambda one: one.tx_ordinal, reverse=True):
                connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": fact.id})
                reversed_entries += _reverse_entries(connection, fact, replaced_by)
    except LedgerRefusal as refusal:
        assert fact is not None
        reason = f"fact {fact.id} left the chain and cannot be reversed: {refusal}"
        raise CannotUnwind(reason) from refusal
    log.warning(
        "facts_unwound",
        chain_id=chain_id,
        facts=[str(one.id) for one in gone],
        entries=reversed_entries,
        block_hash=gone[0].block_hash,
    )
    return reversed_entries


def _reverse_entries(connection: Connection, fact: StandingFact, replaced_by: BlockHeader | None) -> int:
    standing = connection.execute(
        text(
            """
            SELECT e.id, e.book_kind, e.book_id, e.chain_id, e.token, e.debit, e.credit, e.amount,
                e.debit_address, e.credit_address
            FROM public.funds_ledger_entries e
            WHERE e.fact_id = :id AND e.reverses_entry_id IS NULL
                AND NOT EXISTS (SELECT FROM public.funds_ledger_entries r WHERE r.reverses_entry_id = e.id)
            ORDER BY e.book_seq DESC
            """
        ),
        {"id": fact.id},
    ).all()
    for row in standing:
        post(
            connection,
            Entry(
                book_kind=row.book_kind,
                book_id=row.book_id,
                chain_id=row.chain_id,
                token=row.token,
                entry_type="adjustment",
                reason="reorg",
                debit=row.credit,
                credit=row.debit,
                amount=row.amount,
                key=f"reverse:{row.id}",
                debit_address=row.credit_address,
                credit_address=row.debit_address,
                fact_id=fact.id,
                reverses_entry_id=row.id,
                evidence={
                    "block_number": fact.block_number,
                    "block_hash": fact.block_hash,
                    "replaced_by": None if replaced_by is None else replaced_by.hash,
                },
            ),
        )
    return len(standing)


def stop_for_people(
    connection: Connection, chain_id: int, head: BlockHeader, gone: Sequence[StandingFact], reason: str
) -> None:
    """The books say more than the chain: pause the chain and show why (L5, R10)."""
    log.error("chain_paused", chain_id=chain_id, reason=reason)
    pause_chain(connection, chain_id, head, f"reorganisation: {reason}"[:2000])
    for fact in gone:
        bury(
            connection,
            queue=QUEUE,
            subject_kind="chain_fact",
            subject_id=fact.id,
            payment_id=fact.payment_id,
            reason=reason,
            unblocks="the coins of this fact are gone from the chain but were already moved on: "
            "settle the payment, then clear the pause of the chain",
            attempts=1,
        )


def stop_for_move(connection: Connection, chain_id: int, head: BlockHeader, move: BookedMove) -> None:
    """A sweep or payout that was booked at full depth is gone: pause the chain and show why (L14, R10).

    Its entries stay: the same bytes are likely to be mined again, and only people know whether they were.
    """
    reason = f"the {move.direction} {move.transaction_hash} left block {move.block_number} after it was booked"
    log.error("chain_paused", chain_id=chain_id, reason=reason)
    pause_chain(connection, chain_id, head, f"reorganisation: {reason}")
    bury(
        connection,
        queue=QUEUE,
        subject_kind="chain_fact",
        subject_id=move.fact_id,
        payment_id=move.payment_id,
        reason=reason,
        unblocks="see whether the transaction is mined again; settle what it moved, mark this as resolved, then clear "
        "the pause of the chain",
        attempts=1,
    )
