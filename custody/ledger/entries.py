"""Posting to the ledger: typed doors to ``fleet.post_entry`` and ``fleet.post_entries`` (custody/ledger/sql).

Amounts are Decimal in whole tokens (the token's own decimals bound them, L10). Every rule is held by Postgres;
this module only names the movement and turns its refusals into errors that say what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import psycopg.errors
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


_UNIQUE_REFUSALS: Mapping[str, type[LedgerRefusal]] = {
    "funds_ledger_entries_key": KeyUsedForOtherContent,
    "funds_ledger_entries_one_reversal": MovementNotAllowed,
}

BATCH_MAXIMUM: Final = 500  # post_entries() takes no more: a transaction of this size stays well under a second

_POST = text(
    """
    SELECT entry_id, is_new FROM fleet.post_entry(
        :book_kind, :book_id, :chain_id, :token, CAST(:entry_type AS public.funds_ledger_entry_type), :reason,
        :debit, :credit, :amount, :key, :debit_address, :credit_address, CAST(:fact_id AS uuid),
        CAST(:instruction_id AS uuid), CAST(:reverses_entry_id AS uuid), :evidence)
    """
).bindparams(bindparam("evidence", type_=JSONB))

_POST_TOGETHER = text("SELECT entry_id, is_new FROM fleet.post_entries(:entries) ORDER BY place").bindparams(
    bindparam("entries", type_=JSONB)
)


def _parameters(entry: Entry) -> dict[str, Any]:
    if not isinstance(entry.amount, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EntryMalformed(f"amount must be a Decimal, not {type(entry.amount).__name__}")
    if not entry.amount.is_finite():
        raise EntryMalformed(f"amount must be a number above zero, not {entry.amount}")
    return {
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
    }


def refusal_of(error: DBAPIError) -> LedgerRefusal | None:
    """The refusal behind a database error, or None for an error that is none (a lost connection, a deadlock)."""
    found = _REFUSALS.get(sqlstate(error) or "")
    if found is None and isinstance(error.orig, psycopg.errors.UniqueViolation):
        # Two writers of one key, or of one reversal, in different assets of a book: both looked before either wrote.
        found = _UNIQUE_REFUSALS.get(error.orig.diag.constraint_name or "")
    return None if found is None else found(str(error.orig))


def post(connection: Connection, entry: Entry) -> Posted:
    """Append ``entry`` in the caller's transaction, once: a repeat returns the entry that stands.

    Raises a LedgerRefusal; the transaction (or the caller's savepoint) must then be rolled back.
    """
    try:
        row = connection.execute(_POST, _parameters(entry)).one()
    except DBAPIError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise refusal from error
    return Posted(row.entry_id, row.is_new)


def post_together(connection: Connection, entries: Sequence[Entry]) -> list[Posted]:
    """Append up to BATCH_MAXIMUM entries in the caller's transaction, all or none: as ``post`` for each in turn.

    The cost of an entry is a fraction of a single post's. The books are locked in L17's order whatever the order of
    the entries. Raises the LedgerRefusal of the first that is refused, ValueError for too many.
    """
    if len(entries) > BATCH_MAXIMUM:
        raise ValueError(f"entries: expected at most {BATCH_MAXIMUM} in a batch, got {len(entries)}")
    if not entries:
        return []
    try:
        rows = connection.execute(_POST_TOGETHER, {"entries": [_as_json(entry) for entry in entries]}).all()
    except DBAPIError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise refusal from error
    return [Posted(row.entry_id, row.is_new) for row in rows]


def _as_json(entry: Entry) -> dict[str, Any]:
    parameters = _parameters(entry)
    parameters["idempotency_key"] = parameters.pop("key")
    return {
        name: str(value) if isinstance(value, (UUID, Decimal)) else value
        for name, value in parameters.items()
        if value is not None
    }
