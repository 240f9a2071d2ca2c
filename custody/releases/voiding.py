"""Giving back what an instruction reserved, in the caller's one transaction (R1, L4, L7); of a group, all of it (R23).

Nothing was paid: either no bytes ever left the fleet, or a canonical transaction at depth spent the nonce otherwise.
Lock order L17: instruction (held by the caller), its members, then the payments, then their books.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.ledger import Entry, post
from custody.payments import lock_payments, move_payment
from custody.releases import rows
from custody.releases.drain_entries import book_drain_voided
from custody.releases.fees import give_back
from custody.releases.rows import Instruction
from custody.releases.states import InstructionState

PROMISED: Final = {
    "release": "releasing",
    "refund": "refunding",
    "platform_fee": "paying_fees",
    "provider_fee": "paying_fees",
}
"""The account that an instruction's amount is promised in, by purpose."""

_RESERVED: Final = frozenset[InstructionState]({"awaiting_approval", "ready"})


def void(connection: Connection, instruction: Instruction, reason: str, evidence: Mapping[str, Any]) -> None:
    """``void`` back to each amount's source (to disputed while a dispute is open, L4), and the payment's state with it."""
    paid = rows.lock_paid(connection, instruction)
    lock_payments(connection, instruction.payment_ids)
    for each in paid:
        if each.is_drain:
            book_drain_voided(connection, each, reason, evidence)
        else:
            _void(connection, each, reason, evidence)
        if instruction.is_group:  # each payment says by itself why it was not paid
            rows.note(connection, each.id, reason)


def _void(connection: Connection, instruction: Instruction, reason: str, evidence: Mapping[str, Any]) -> None:
    assert instruction.payment_id is not None
    disputed = connection.execute(
        text(
            "SELECT dispute_open FROM fleet.ledger_balances "
            "WHERE book_id = :book AND chain_id = :chain AND token = :token"
        ),
        {"book": instruction.payment_id, "chain": instruction.chain_id, "token": instruction.token},
    ).scalar_one()
    back = "disputed" if disputed and instruction.source == "held" else instruction.source
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=instruction.payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type=instruction.purpose,
            reason="void",
            debit=PROMISED[instruction.purpose],
            credit=back,
            amount=instruction.amount,
            key=f"release:{instruction.id}:void:1",
            instruction_id=instruction.id,
            evidence={**evidence, "reason": reason},
        ),
    )
    give_back(connection, instruction, back)
    if instruction.purpose == "release":
        move_payment(connection, instruction.payment_id, "release_voided")


def void_before_hand_out(connection: Connection, instruction: Instruction, reason: str) -> None:
    """drafted, awaiting_approval or ready -> expired, with what was reserved given back. The caller holds its lock.

    No bytes of it have left the fleet, so no signature can exist (R1). Raises MoveRefused for any later state.
    """
    was = instruction.state
    rows.move(connection, instruction, "expired")
    rows.note(connection, instruction.id, reason)
    if was in _RESERVED:
        void(connection, instruction, reason, {})
