"""The entries of a move from a former treasury to the active one: ``adjustment : rotation`` (R22, L22).

Whose the coins are does not change, so no liability moves. They are ``in_transit`` at the old address from the moment they
are promised to the move, so that nothing else can promise them (L3), and lie in the treasury at the new address once the
move is deep. Voided, they lie at the old one as before.

The house's own coins leave the house book of the old treasury, which gives their funding up, for that of the new one, in
one transaction: a fee is paid out of the book of the treasury that pays it.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from custody.ledger import Entry, LedgerRefusal, post
from custody.ledger.house import house_account
from custody.releases.rows import Instruction


def book_drain_promised(connection: Connection, instruction: Instruction) -> None:
    """in_transit / treasury, both at the old address. Raises LedgerRefusal while the coins are promised elsewhere."""
    evidence = {"recipient": instruction.recipient}
    _post(connection, instruction, "rotation", ("in_transit", _lying(instruction)), "reserve", evidence)


def book_drained(connection: Connection, instruction: Instruction, fact_id: UUID, evidence: Mapping[str, Any]) -> None:
    """treasury at the new address / in_transit at the old one, on the transfer's own fact. Raises LedgerRefusal."""
    if instruction.house_id is None:
        _post(connection, instruction, "rotation", ("treasury", "in_transit"), "final", evidence, fact_id)
        return
    into = house_account(connection, instruction.chain_id, instruction.recipient, "treasury")
    if into is None:
        raise LedgerRefusal(f"treasury {instruction.recipient} has no house account on chain {instruction.chain_id}")
    legs = [(instruction.house_id, ("gas_funding", "in_transit")), (into, ("treasury_house", "gas_funding"))]
    for book, movement in sorted(legs):  # by id, as books are locked (L17)
        _post(connection, instruction, "rotation", movement, "final", evidence, fact_id, book=book)


def book_drain_voided(
    connection: Connection, instruction: Instruction, reason: str, evidence: Mapping[str, Any]
) -> None:
    """treasury / in_transit, both at the old address: nothing was moved."""
    said = {**evidence, "reason": reason}
    _post(connection, instruction, "rotation_void", (_lying(instruction), "in_transit"), "void", said)


def _lying(instruction: Instruction) -> str:
    """The account that its coins lie in, at either address."""
    return "treasury" if instruction.house_id is None else "treasury_house"


def _post(
    connection: Connection,
    instruction: Instruction,
    reason: str,
    movement: tuple[str, str],
    phase: str,
    evidence: Mapping[str, Any],
    fact_id: UUID | None = None,
    *,
    book: UUID | None = None,
) -> None:
    debit, credit = movement
    at = {
        _lying(instruction): instruction.recipient if phase == "final" else instruction.treasury,
        "in_transit": instruction.treasury,
    }
    post(
        connection,
        Entry(
            book_kind="payment" if instruction.house_id is None else "house",
            book_id=book or instruction.book_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type="adjustment",
            reason=reason,
            debit=debit,
            credit=credit,
            amount=instruction.amount,
            key=f"release:{instruction.id}:{phase}:1",
            debit_address=at.get(debit),
            credit_address=at.get(credit),
            fact_id=fact_id,
            instruction_id=instruction.id,
            evidence=evidence,
        ),
    )
