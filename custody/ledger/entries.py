"""Posting to the ledger: a typed door to ``fleet.post_entry`` (custody/ledger/sql/post_entry.sql).

Amounts are Decimal in whole tokens (the token's own decimals bound them, L10). Every rule is held by Postgres;
this module only names the movement and turns its refusals into errors that say what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from custody.store.engine import sqlstate

BookKind = Literal["payment", "house"]


class LedgerRefusal(Exception):
    """The ledger refused an entry; nothing of it was written. The message is the database's."""


class KeyUsedForOtherContent(LedgerRefusal):
    """FL001: the idempotency key already names an entry with another content."""


class MovementNotAllowed(LedgerRefusal):
    """FL002: this role may not post this movement, or its fact, instruction or reversed entry does not fit."""


class DisputeOpen(LedgerRefusal):
    """FL003: a dispute is open on the book; the movement waits until it is resolved (L4)."""


class EntryMalformed(LedgerRefusal):
    """FL004: an argument is missing or wrong."""


class BookTooSmall(LedgerRefusal):
    """An account would go below zero, or promises would exceed the treasury (L3)."""


_REFUSALS: Mapping[str, type[LedgerRefusal]] = {
    "FL001": KeyUsedForOtherContent,
    "FL002": MovementNotAllowed,
    "FL003": DisputeOpen,
    "FL004": EntryMalformed,
    "22003": EntryMalformed,  # more digits than numeric(38,18) holds
    "23514": BookTooSmall,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One movement: ``amount`` > 0 (whole tokens) from ``credit`` to ``debit`` in one book and one asset."""

    book_kind: BookKind
    book_id: UUID
    chain_id: int
    token: str
    entry_type: str
    reason: str
    debit: str
    credit: str
    amount: Decimal
    key: str
    """Made from the fact and its leg (L1), never from the attempt."""
    debit_address: str | None = None
    credit_address: str | None = None
    fact_id: UUID | None = None
    instruction_id: UUID | None = None
    reverses_entry_id: UUID | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; amounts inside are strings."""


class Posted(NamedTuple):
    """The entry's id, and whether this call wrote it (False: the same entry stood already)."""

    entry_id: UUID
    is_new: bool


_POST = text(
    """
    SELECT entry_id, is_new FROM fleet.post_entry(
        :book_kind, :book_id, :chain_id, :token, CAST(:entry_type AS public.funds_ledger_entry_type), :reason,
        :debit, :credit, :amount, :key, :debit_address, :credit_address, CAST(:fact_id AS uuid),
        CAST(:instruction_id AS uuid), CAST(:reverses_entry_id AS uuid), :evidence)
    """
).bindparams(bindparam("evidence", type_=JSONB))


def post(connection: Connection, entry: Entry) -> Posted:
    """Append ``entry`` in the caller's transaction, once: a repeat returns the entry that stands.

    Raises a LedgerRefusal; the transaction (or the caller's savepoint) must then be rolled back.
    """
    if not isinstance(entry.amount, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EntryMalformed(f"amount must be a Decimal, not {type(entry.amount).__name__}")
    if not entry.amount.is_finite():
        raise EntryMalformed(f"amount must be a number above zero, not {entry.amount}")
    try:
        row = connection.execute(
            _POST,
            {
                "book_kind": entry.book_kind,
                "book_id": entry.book_id,
                "chain_id": entry.chain_id,
                "token": entry.token,
                "entry_type": entry.entry_type,
                "reason": entry.reason,
                "debit": entry.debit,
                "credit": entry.credit,
                "amount": entry.amount,
                "key": entry.key,
                "debit_address": entry.debit_address,
                "credit_address": entry.credit_address,
                "fact_id": entry.fact_id,
                "instruction_id": entry.instruction_id,
                "reverses_entry_id": entry.reverses_entry_id,
                "evidence": dict(entry.evidence),
            },
        ).one()
    except DBAPIError as error:
        refusal = _REFUSALS.get(sqlstate(error) or "")
        if refusal is None:
            raise
        raise refusal(str(error.orig)) from error
    return Posted(row.entry_id, row.is_new)
