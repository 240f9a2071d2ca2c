"""Adjustments by hand (custody-rules R10): proposed by one person, executed by another, each written down.

``by`` is a label, never an authority. Until the signatures of two persons can be checked, the database executes and
even proposes only on development chains (custody/ledger/sql/operator_actions.sql).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from custody.ledger.entries import LedgerRefusal, refusal_of
from custody.store.engine import sqlstate

Kind = Literal["accepted", "fee_borne"]

_MOVEMENTS: Final[dict[Kind, tuple[str, str]]] = {
    "accepted": ("suspense", "held"),
    "fee_borne": ("held", "transfer_cost"),
}
LISTED_MAXIMUM: Final = 100  # what a person can read at once


class ActionRefused(LedgerRefusal):
    """FL006: not on this chain, not by this person, or not what was proposed. The message says which."""


@dataclass(frozen=True, slots=True)
class Action:
    """An operator's action as it stands. ``hash``: hex, over kind and parameters; what the second person agrees to."""

    id: UUID
    kind: str
    chain_id: int
    parameters: dict[str, Any]
    hash: str
    reason: str
    proposed_by: str
    proposed_at: datetime
    state: str


def propose(connection: Connection, payment_id: UUID, kind: Kind, amount: Decimal, *, reason: str, by: str) -> UUID:
    """Propose to move ``amount`` (whole tokens) of a payment's primary asset. Nothing is posted.

    Raises ActionRefused outside development chains, LookupError for a payment without a route, ValueError for an
    amount, reason or label that is none.
    """
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"amount: expected a number above zero, got {amount}")
    route = connection.execute(
        text("SELECT chain_id, token FROM fleet.payment_routes WHERE payment_id = :id"), {"id": payment_id}
    ).one_or_none()
    if route is None:
        raise LookupError(f"there is no payment {payment_id} with a route")
    debit, credit = _MOVEMENTS[kind]
    return _propose(
        connection,
        {
            "book_kind": "payment", "book_id": str(payment_id), "chain_id": route.chain_id, "token": route.token,
            "reason": kind, "debit": debit, "credit": credit, "amount": f"{amount:f}",
        },
        reason,
        by,
    )  # fmt: skip


def propose_correction(connection: Connection, entry_id: UUID, *, reason: str, by: str) -> UUID:
    """Propose the exact reverse of an adjustment made by hand: at most once, and never of a reversal.

    Raises ActionRefused outside development chains, LookupError for an entry that is no adjustment by hand.
    """
    row = connection.execute(
        text(
            "SELECT book_kind, book_id, chain_id, token, debit, credit, amount, debit_address, credit_address "
            "FROM public.funds_ledger_entries WHERE id = :id AND poster_role = 'fleet_operator' "
            "AND reverses_entry_id IS NULL"
        ),
        {"id": entry_id},
    ).one_or_none()
    if row is None:
        raise LookupError(f"{entry_id} is no adjustment made by hand")
    parameters = {
        "book_kind": row.book_kind, "book_id": str(row.book_id), "chain_id": row.chain_id, "token": row.token,
        "reason": "correction", "debit": row.credit, "credit": row.debit, "amount": f"{row.amount:f}",
        "debit_address": row.credit_address, "credit_address": row.debit_address, "reverses_entry_id": str(entry_id),
    }  # fmt: skip
    return _propose(connection, {name: value for name, value in parameters.items() if value is not None}, reason, by)


def _propose(connection: Connection, parameters: dict[str, Any], reason: str, by: str) -> UUID:
    if not 1 <= len(reason) <= 500:
        raise ValueError(f"reason: expected 1 to 500 characters, got {len(reason)}")
    _require_label(by)
    statement = text("SELECT fleet.propose_adjustment(:parameters, :reason, :by)").bindparams(
        bindparam("parameters", type_=JSONB)
    )
    try:
        return connection.execute(statement, {"parameters": parameters, "reason": reason, "by": by}).scalar_one()
    except DBAPIError as error:
        raise _refusal(error) from error


def execute(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> UUID:
    """Post what was proposed, as another person than who proposed it; returns the entry's id.

    ``agreed_hash``: hex, as shown. Raises ActionRefused or another LedgerRefusal; the transaction must be rolled back.
    """
    _require_label(by)
    try:
        agreed = bytes.fromhex(agreed_hash)
    except ValueError:
        raise ValueError("hash: expected the hex digits that the list shows") from None
    try:
        return connection.execute(
            text("SELECT fleet.execute_adjustment(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise _refusal(error) from error


def withdraw(connection: Connection, action_id: UUID, *, by: str) -> None:
    """Close a proposal without executing it. Raises ActionRefused if it is not open."""
    _require_label(by)
    try:
        connection.execute(text("SELECT fleet.withdraw_action(:id, :by)"), {"id": action_id, "by": by})
    except DBAPIError as error:
        raise _refusal(error) from error


def open_actions(connection: Connection) -> Sequence[Action]:
    """What waits for a second person, oldest first, at most LISTED_MAXIMUM."""
    rows = connection.execute(
        text(
            "SELECT id, kind, chain_id, parameters, encode(parameter_hash, 'hex') AS hash, reason, proposed_by, "
            "proposed_at, state FROM fleet.operator_actions WHERE state = 'proposed' ORDER BY proposed_at LIMIT :n"
        ),
        {"n": LISTED_MAXIMUM},
    )
    return [Action(**row._mapping) for row in rows]


def _require_label(by: str) -> None:
    if not 1 <= len(by) <= 100:
        raise ValueError(f"by: expected 1 to 100 characters, got {len(by)}")


def _refusal(error: DBAPIError) -> Exception:
    if sqlstate(error) == "FL006":
        return ActionRefused(str(error.orig).splitlines()[0])
    return refusal_of(error) or error
