"""The entries of a move from a former treasury to the active one: ``adjustment : rotation`` (R22, L22).

Whose the coins are does not change, so no liability moves. They are ``in_transit`` at the old address from the moment they
are promised to the move, so that nothing else can promise them (L3), and lie in the treasury at the new address once the
move is deep. Voided, they lie at the old one as before.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from custody.ledger import Entry, post
from custody.releases.rows import Instruction


def book_drain_promised(connection: Connection, instruction: Instruction) -> None:
    """in_transit / treasury, both at the old address. Raises LedgerRefusal while the coins are promised elsewhere."""
    _post(
        connection, instruction, "rotation", "in_transit", "treasury", "reserve", {"recipient": instruction.recipient}
    )


def book_drained(connection: Connection, instruction: Instruction, fact_id: UUID, evidence: Mapping[str, Any]) -> None:
    """treasury at the new address / in_transit at the old one, on the transfer's own fact."""
    _post(connection, instruction, "rotation", "treasury", "in_transit", "final", evidence, fact_id)


def book_drain_voided(
    connection: Connection, instruction: Instruction, reason: str, evidence: Mapping[str, Any]
) -> None:
    """treasury / in_transit, both at the old address: nothing was moved."""
    _post(connection, instruction, "rotation_void", "treasury", "in_transit", "void", {**evidence, "reason": reason})


def _post(
    connection: Connection,
    instruction: Instruction,
    reason: str,
    debit: str,
    credit: str,
    phase: str,
    evidence: Mapping[str, Any],
    fact_id: UUID | None = None,
) -> None:
    assert instruction.payment_id is not None  # a drain is never grouped
    arrived = phase == "final"
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=instruction.payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type="adjustment",
            reason=reason,
            debit=debit,
            credit=credit,
            amount=instruction.amount,
            key=f"release:{instruction.id}:{phase}:1",
            debit_address=instruction.recipient if arrived else instruction.treasury,
            credit_address=instruction.treasury,
            fact_id=fact_id,
            instruction_id=instruction.id,
            evidence=evidence,
        ),
    )
