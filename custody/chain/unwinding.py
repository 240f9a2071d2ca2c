"""Taking back what a reorganisation took: exact reversals, newest first, all of them or none (L1, L5).

Where the books cannot follow, because the coins of a vanished fact were moved on, they say the loss instead:
``adjustment : reorg_loss`` loss / overdraft, at the address that has fewer coins than its books say (L22). Once the
transaction is mined again, ``adjustment : recovered`` overdraft / loss takes its new fact in place of a new arrival:
the entries of the vanished one stand for these coins already.

Where a loss sits. While the payment's book still has the coins at the deposit address (they were disputed, say, but
not swept), that address is short. Otherwise a sweep took them to the treasury, and that sweep stood on the vanished
block or above it: its own block is gone as well, and mined again it finds no coins to take. So the deposit address is
empty on the chain as in the books, and the treasury is short, also when a payout was made from it meanwhile: that
spent other payments' coins. One case is left to people: a sweep of an address with several payments that was mined
again and took another payment's coins. The totals are right then too; the pause names the sweep (``stop_for_move``).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import to_amount, to_units
from custody.chain.blocks import BlockHeader
from custody.chain.cursor import BookedMove, pause_chain
from custody.chain.facts import Arrival, StandingFact
from custody.chain.looks import QUEUE
from custody.ledger import BookTooSmall, Entry, post
from custody.store.work import bury

log = structlog.get_logger(__name__)

GO_ON: Final = "settle what the reason names, then two persons: fleet chain go-on"


def unwind(
    connection: Connection,
    chain_id: int,
    head: BlockHeader,
    gone: Sequence[StandingFact],
    replaced_by: BlockHeader | None,
) -> int:
    """Mark vanished facts dead, and reverse their entries or book their loss. Returns how many entries were made.

    ``replaced_by``: the block that now stands where the facts' block stood, for the evidence. A loss pauses the chain
    and is shown to an operator; what was a loss before stays one. Raises LedgerRefusal for anything but a book that
    is too small; roll the transaction back then.
    """
    made = 0
    for fact in sorted(gone, key=lambda one: one.tx_ordinal, reverse=True):
        entries = _entries_of(connection, fact)
        evidence = _evidence(fact, replaced_by)
        try:
            _reverse(connection, fact, entries, evidence)
            made += len(entries)
            # The exact reverse of what had recovered a loss is that loss again.
            why = "it had come back, and is gone again" if any(row.debit == "overdraft" for row in entries) else None
        except BookTooSmall as refusal:
            _book_loss(connection, fact, entries, evidence)
            made += 1
            why = str(refusal).splitlines()[0]
        if why is not None:
            _stop_for_loss(connection, chain_id, head, fact, why)
    log.warning(
        "facts_unwound",
        chain_id=chain_id,
        facts=[str(one.id) for one in gone],
        entries=made,
        block_hash=gone[0].block_hash,
    )
    return made


def reverse(connection: Connection, fact: StandingFact) -> None:
    """Mark a fact dead and reverse its entries exactly. Raises BookTooSmall where its money moved on: nothing is done."""
    _reverse(connection, fact, _entries_of(connection, fact), _evidence(fact, None))


def _reverse(connection: Connection, fact: StandingFact, entries: Sequence[Any], evidence: dict[str, Any]) -> None:
    with connection.begin_nested():
        _mark_dead(connection, fact)
        for row in entries:
            post(connection, _reverse_of(row, fact, evidence))
        _require_coins(connection, entries)


def _mark_dead(connection: Connection, fact: StandingFact) -> None:
    connection.execute(text("UPDATE fleet.chain_facts SET live = false WHERE id = :id"), {"id": fact.id})


def _entries_of(connection: Connection, fact: StandingFact) -> Sequence[Any]:
    """The fact's entries that stand, newest first."""
    return connection.execute(
        text(
            """
            SELECT e.id, e.book_kind, e.book_id, e.chain_id, e.token, e.debit, e.credit, e.amount,
                e.debit_address, e.credit_address, e.currency
            FROM public.funds_ledger_entries e
            WHERE e.fact_id = :id AND e.reverses_entry_id IS NULL
                AND NOT EXISTS (SELECT FROM public.funds_ledger_entries r WHERE r.reverses_entry_id = e.id)
            ORDER BY e.book_seq DESC
            """
        ),
        {"id": fact.id},
    ).all()


def _evidence(fact: StandingFact, replaced_by: BlockHeader | None) -> dict[str, Any]:
    return {
        "block_number": fact.block_number,
        "block_hash": fact.block_hash,
        "replaced_by": None if replaced_by is None else replaced_by.hash,
    }


def _reverse_of(row: Any, fact: StandingFact, evidence: dict[str, Any]) -> Entry:
    return Entry(
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
        evidence=evidence,
    )


def _book_loss(connection: Connection, fact: StandingFact, entries: Sequence[Any], evidence: dict[str, Any]) -> None:
    """One entry for everything that stands booked of the fact, while it lives; then it is dead (L2 judges at commit)."""
    coins = [row for row in entries if {row.debit, row.credit} & {"destination", "overdraft"}]
    amount: Decimal = connection.execute(
        text("SELECT sum(amount) FROM public.funds_ledger_entries WHERE id = ANY(:ids)"),
        {"ids": [row.id for row in coins]},
    ).scalar_one()
    # What recovered a loss can always be reversed: a fact that cannot be has an arrival.
    book = next(row for row in coins if row.debit == "destination")
    post(
        connection,
        Entry(
            book_kind=book.book_kind,
            book_id=book.book_id,
            chain_id=book.chain_id,
            token=book.token,
            entry_type="adjustment",
            reason="reorg_loss",
            debit="loss",
            credit="overdraft",
            amount=amount,
            key=f"fact:{fact.id}:reorg_loss",
            credit_address=_short_address(connection, book, amount),
            fact_id=fact.id,
            evidence=evidence,
        ),
    )
    _mark_dead(connection, fact)


def _require_coins(connection: Connection, entries: Sequence[Any]) -> None:
    """Raises BookTooSmall when the reversal took coins of the same book that are lost already at their address."""
    for row in entries:
        if row.debit == "destination" and _coins_at(connection, row) < 0:
            raise BookTooSmall(f"book {row.book_id} has no coins at {row.debit_address} but lost ones")


def _short_address(connection: Connection, book: Any, amount: Decimal) -> str:
    """Which address has fewer coins than the books say; the module's docstring says why."""
    if _coins_at(connection, book) >= amount:
        return book.debit_address
    treasury = connection.execute(
        text(
            """
            SELECT e.debit_address FROM public.funds_ledger_entries e
            WHERE e.book_id = :book AND e.chain_id = :chain AND e.token = :token
                AND e.reason = 'sweep' AND e.credit_address = :address
            ORDER BY e.book_seq DESC LIMIT 1
            """
        ),
        _place(book),
    ).scalar_one_or_none()
    return book.debit_address if treasury is None else treasury


def _coins_at(connection: Connection, row: Any) -> Decimal:
    """What the book of an arrival has at its deposit address, less what of it is lost there."""
    return connection.execute(
        text(
            """
            SELECT coalesce(sum(leg.amount), 0) FROM public.funds_ledger_entries e CROSS JOIN LATERAL (VALUES
                (e.debit, e.debit_address, e.amount), (e.credit, e.credit_address, -e.amount)) AS leg (account, address, amount)
            WHERE e.book_id = :book AND e.chain_id = :chain AND e.token = :token
                AND leg.account IN ('destination', 'overdraft') AND leg.address = :address
            """
        ),
        _place(row),
    ).scalar_one()


def _place(row: Any) -> dict[str, Any]:
    return {"book": row.book_id, "chain": row.chain_id, "token": row.token, "address": row.debit_address}


def _stop_for_loss(connection: Connection, chain_id: int, head: BlockHeader, fact: StandingFact, why: str) -> None:
    """The books equal the chain again, with a loss in them: people decide how the fleet goes on (L14, R10)."""
    reason = f"fact {fact.id} left the chain with block {fact.block_number} and cannot be reversed, its loss is booked: {why}"
    log.error(
        "reorganisation_loss", chain_id=chain_id, fact_id=str(fact.id), payment_id=str(fact.payment_id), reason=reason
    )
    pause_chain(connection, chain_id, head, f"reorganisation: {reason}"[:2000])
    bury(
        connection,
        queue=QUEUE,
        subject_kind="chain_fact",
        subject_id=fact.id,
        payment_id=fact.payment_id,
        reason=reason,
        unblocks=f"the coins are gone from the chain but were moved on: see whether its transaction is mined again, or "
        f"cover the loss (fleet ledger adjust cover); {GO_ON} {chain_id}",
        attempts=1,
    )


# Coming back -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lost:
    """What is still missing of earlier incarnations of one transfer. ``units``: smallest unit of its token."""

    payment_id: UUID
    fact_id: UUID
    address: str
    units: int


def ever_lost(connection: Connection, payment_ids: Collection[UUID]) -> set[UUID]:
    """Those payments in whose books a loss ever stood: of the others, ``lost_of`` finds nothing."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT book_id FROM public.funds_ledger_entries "
            "WHERE book_id = ANY(:ids) AND 'overdraft' IN (debit, credit)"
        ),
        {"ids": list(payment_ids)},
    )
    return {*rows.scalars()}


def lost_of(connection: Connection, chain_id: int, arrival: Arrival, payment_id: UUID) -> Lost | None:
    """The loss that earlier incarnations of this very transfer left in the payment's book, None if there is none.

    At one address, the newest. What was covered meanwhile is no longer missing there: a transfer that comes back after
    that is new money.
    """
    row = connection.execute(
        text(
            """
            WITH legs AS (
                SELECT e.book_seq, e.fact_id, leg.address, leg.amount
                FROM public.funds_ledger_entries e CROSS JOIN LATERAL (VALUES
                    (e.credit, e.credit_address, e.amount), (e.debit, e.debit_address, -e.amount)
                ) AS leg (account, address, amount)
                WHERE e.book_id = :payment AND e.chain_id = :chain AND e.token = :token AND leg.account = 'overdraft'),
            own AS (
                SELECT l.address, sum(l.amount) AS amount, max(l.book_seq) AS newest
                FROM legs l JOIN fleet.chain_facts f ON f.id = l.fact_id
                WHERE f.chain_id = :chain AND f.transaction_hash = :hash AND f.tx_ordinal = :ordinal
                GROUP BY l.address HAVING sum(l.amount) > 0)
            SELECT own.address, least(own.amount, (SELECT sum(l.amount) FROM legs l WHERE l.address = own.address)) AS amount,
                (SELECT l.fact_id FROM legs l WHERE l.book_seq = own.newest) AS fact_id
            FROM own ORDER BY own.newest DESC LIMIT 1
            """
        ),
        {
            "chain": chain_id,
            "hash": arrival.inbound.transfer.transaction_hash,
            "ordinal": arrival.inbound.tx_ordinal,
            "token": arrival.token,
            "payment": payment_id,
        },
    ).one_or_none()
    if row is None or row.amount <= 0:
        return None
    return Lost(payment_id, row.fact_id, row.address, to_units(row.amount, arrival.decimals))


def recover(connection: Connection, fact_id: UUID, arrival: Arrival, lost: Lost) -> int:
    """Take the returned transfer against its loss; return the units of it that are left to be booked as an arrival."""
    transfer = arrival.inbound.transfer
    units = min(lost.units, transfer.amount)
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=lost.payment_id,
            chain_id=transfer.chain_id,
            token=arrival.token,
            entry_type="adjustment",
            reason="recovered",
            debit="overdraft",
            credit="loss",
            amount=to_amount(units, arrival.decimals),
            key=f"fact:{fact_id}:recovered",
            debit_address=lost.address,
            fact_id=fact_id,
            evidence={
                "lost_with": str(lost.fact_id),
                "transaction_hash": transfer.transaction_hash,
                "log_index": transfer.log_index,
                "block_number": transfer.block_number,
                "block_hash": transfer.block_hash,
            },
        ),
    )
    if units == transfer.amount:  # the holds of the vanished one stand: nothing of it is judged again
        connection.execute(
            text("UPDATE fleet.chain_facts SET judged_at = clock_timestamp() WHERE id = :id"), {"id": fact_id}
        )
    bury(
        connection,
        queue=QUEUE,
        subject_kind="chain_fact",
        subject_id=lost.fact_id,
        payment_id=lost.payment_id,
        reason=f"{units} units of {arrival.token} that a reorganisation had taken came back in block "
        f"{transfer.block_number} as fact {fact_id}; the loss is taken back",
        unblocks=f"see that the books equal the chain (fleet ledger escrow); {GO_ON} {transfer.chain_id}",
        attempts=1,
    )
    log.info("loss_recovered", chain_id=transfer.chain_id, payment_id=str(lost.payment_id), fact_id=str(fact_id))
    return transfer.amount - units


# Booked moves --------------------------------------------------------------------------------------------------------


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
        unblocks=f"see whether the transaction is mined again, and compare books and chain (fleet ledger escrow); "
        f"{GO_ON} {chain_id}",
        attempts=1,
    )
