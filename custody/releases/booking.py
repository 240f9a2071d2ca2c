"""The entries that end an instruction, with every state they move, in the caller's one transaction.

Of a group each payment has its own, on the one fact of its transfer (R23). Lock order L17: instruction (held by the
caller), lane, members, payments, their books, then the treasury's house book.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain import NATIVE, Receipt, to_amount
from custody.chain.lanes import LaneTransaction, mark_final
from custody.ledger import Entry, post
from custody.payments import lock_payments, move_payment
from custody.releases import rows
from custody.releases.drain_entries import book_drained
from custody.releases.outcome import Paid
from custody.releases.requests import why_cancelled
from custody.releases.rows import Instruction
from custody.releases.states import InstructionState
from custody.releases.voiding import PROMISED, void
from custody.store.outbox import mirror

_ETHER_DECIMALS: Final = 18
PAUSE_CHARACTERS: Final = 500


def book_paid(
    connection: Connection,
    instruction: Instruction,
    lane: LaneTransaction | None,
    receipt: Receipt,
    paid: Paid,
    evidence: Mapping[str, Any],
) -> None:
    """``release:final`` on its outbound fact, the fee, and the states of lane, instruction, payment and request.

    ``lane`` None: a Safe executed it, and the fee is the sender's own matter (safe_lanes).
    """
    if lane is not None:
        _end_lane(connection, lane, receipt)
    rows.move(connection, instruction, "final", final_at=rows.now(connection))
    members = rows.lock_paid(connection, instruction)
    lock_payments(connection, instruction.payment_ids)
    fact_id = _outbound_fact(connection, instruction, receipt, paid)
    for each in members:
        if each.is_drain:
            book_drained(connection, each, fact_id, evidence)
        else:
            _book_part(connection, each, fact_id, evidence)
    if lane is not None:
        _book_fee(connection, instruction, receipt, evidence)


def _book_part(connection: Connection, instruction: Instruction, fact_id: UUID, evidence: Mapping[str, Any]) -> None:
    """What one payment paid of it: its own entry under its own key, and its state."""
    assert instruction.payment_id is not None
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=instruction.payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type=instruction.purpose,
            reason="final",
            debit=PROMISED[instruction.purpose],
            credit="treasury",
            amount=instruction.amount,
            key=f"release:{instruction.id}:final:1",
            credit_address=instruction.treasury,
            fact_id=fact_id,
            instruction_id=instruction.id,
            evidence=evidence,
        ),
    )
    if instruction.purpose == "release":
        _end_released(connection, instruction)
    elif instruction.purpose == "refund":
        _end_refunded(connection, instruction)


def book_failed(
    connection: Connection,
    instruction: Instruction,
    lane: LaneTransaction | None,
    receipt: Receipt | None,
    reason: str,
    evidence: Mapping[str, Any],
    *,
    ended: InstructionState = "failed",
) -> None:
    """``release:void`` back to held (or disputed, L4), and the fee if our own transaction was mined.

    ``receipt`` is None when a foreign transaction took the nonce: its fee is not ours to book here (L5).
    """
    if lane is not None and receipt is not None:
        _end_lane(connection, lane, receipt)
    elif lane is not None:
        connection.execute(
            text("UPDATE fleet.chain_transactions SET state = 'failed', last_error = :why WHERE id = :id"),
            {"id": lane.id, "why": reason},
        )
    rows.move(connection, instruction, ended)
    rows.note(connection, instruction.id, reason)
    void(connection, instruction, reason, evidence)
    if receipt is not None:
        _book_fee(connection, instruction, receipt, evidence)


def book_cancelled(
    connection: Connection,
    instruction: Instruction,
    lane: LaneTransaction,
    receipt: Receipt,
    evidence: Mapping[str, Any],
) -> None:
    """The cancel spent the nonce: nothing can be paid by it any more (R1), the promise is given back, its fee is booked."""
    _end_lane(connection, lane, receipt)
    rows.move(connection, instruction, "cancelled")
    reason = why_cancelled(connection, instruction.id)
    rows.note(connection, instruction.id, reason)
    void(connection, instruction, reason, evidence)
    _book_fee(connection, instruction, receipt, evidence)


def pause_chain(connection: Connection, chain_id: int, reason: str) -> None:
    """Stop releases and sweeps of a chain until two persons let it go on (R10); the first reason stands."""
    connection.execute(
        text("SELECT fleet.pause_chain(:chain, :reason)"), {"chain": chain_id, "reason": reason[:PAUSE_CHARACTERS]}
    )


def _end_lane(connection: Connection, lane: LaneTransaction, receipt: Receipt) -> None:
    mark_final(
        connection,
        lane.id,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        succeeded=receipt.succeeded,
        fee_wei=receipt.fee,
        transaction_hash=receipt.transaction_hash,
    )


def _outbound_fact(connection: Connection, instruction: Instruction, receipt: Receipt, paid: Paid) -> UUID:
    return connection.execute(
        text(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, payment_id, judged_at)
            VALUES (:chain, :number, :block, :hash, :log_index, :ordinal, :token, :sender, :recipient, :units,
                'outbound', :payment, clock_timestamp())
            RETURNING id
            """
        ),
        {
            "chain": instruction.chain_id,
            "number": receipt.block_number,
            "block": receipt.block_hash,
            "hash": receipt.transaction_hash,
            "log_index": paid.log_index,
            "ordinal": paid.tx_ordinal,
            "token": instruction.token,
            "sender": instruction.treasury,
            "recipient": instruction.recipient,
            "units": instruction.amount_units,
            # Of a group the first: that it is ours is what counts (L5). The house's own coins have none.
            "payment": next(iter(instruction.payment_ids), None),
        },
    ).scalar_one()


def _book_fee(connection: Connection, instruction: Instruction, receipt: Receipt, evidence: Mapping[str, Any]) -> None:
    """L6: one entry for the exact fee, in the treasury's house book, which is locked last."""
    house = connection.execute(
        text(
            "SELECT id FROM fleet.house_accounts WHERE chain_id = :chain AND address = :treasury AND kind = 'treasury'"
        ),
        {"chain": instruction.chain_id, "treasury": instruction.treasury},
    ).scalar_one()
    post(
        connection,
        Entry(
            book_kind="house",
            book_id=house,
            chain_id=instruction.chain_id,
            token=NATIVE,
            entry_type="adjustment",
            reason="gas",
            debit="gas_spent",
            credit="treasury_house",
            amount=to_amount(receipt.fee, _ETHER_DECIMALS),
            key=f"gas:{instruction.chain_id}:{receipt.transaction_hash}",
            credit_address=instruction.treasury,
            evidence={**evidence, "instruction_id": str(instruction.id)},
        ),
    )


def _end_released(connection: Connection, instruction: Instruction) -> None:
    """The seller is paid once nothing is held for him any more; after a part of it the rest is as before.

    What stays disputed when no dispute is open is the buyer's part, which waits for its refund.
    """
    assert instruction.payment_id is not None
    left = connection.execute(
        text(
            "SELECT held + CASE WHEN dispute_open > 0 THEN disputed ELSE 0 END FROM fleet.ledger_balances "
            "WHERE book_id = :payment AND chain_id = :chain AND token = :token"
        ),
        {"payment": instruction.payment_id, "chain": instruction.chain_id, "token": instruction.token},
    ).scalar_one()
    if left > 0:
        move_payment(connection, instruction.payment_id, "part_released")
        return
    move_payment(connection, instruction.payment_id, "released")
    _mark_seller_paid(connection, instruction.payment_id)


def _end_refunded(connection: Connection, instruction: Instruction) -> None:
    """The payment is refunded once nothing of it is left to pay, released if a part of it was; until then it stays."""
    assert instruction.payment_id is not None
    row = connection.execute(
        text(
            """
            SELECT p.status::text AS status, b.held + b.disputed + b.releasing + b.refunding AS left_over, EXISTS (
                SELECT FROM public.funds_ledger_entries e
                WHERE e.book_id = p.id AND e.entry_type = 'release' AND e.reason = 'final') AS part_released
            FROM public.payments p JOIN fleet.ledger_balances b
                ON b.book_id = p.id AND b.chain_id = :chain AND b.token = :token
            WHERE p.id = :payment
            """
        ),
        {"payment": instruction.payment_id, "chain": instruction.chain_id, "token": instruction.token},
    ).one()
    if row.left_over > 0 or row.status not in {"confirmed", "processing"}:
        return
    if row.part_released:
        move_payment(connection, instruction.payment_id, "rest_refunded")
        _mark_seller_paid(connection, instruction.payment_id)
    else:
        move_payment(connection, instruction.payment_id, "refunded")


def _mark_seller_paid(connection: Connection, payment_id: UUID) -> None:
    request_id = connection.execute(
        text(
            """
            UPDATE public.purchase_requests r SET status = 'seller_paid', updated_at = clock_timestamp()
            FROM public.payments p WHERE p.id = :payment AND r.id = p.purchase_request_id RETURNING r.id
            """
        ),
        {"payment": payment_id},
    ).scalar_one_or_none()
    if request_id is not None:
        mirror(connection, "purchaserequests", request_id)
