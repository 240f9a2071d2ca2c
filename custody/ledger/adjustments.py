"""Actions by hand (custody-rules R10): proposed by one person, signed by two on their devices, each written down.

``by`` is a label, never an authority. The database executes what two persons' signatures stand under; on development
chains another label than the proposer's is enough (custody/ledger/sql/operator_actions.sql).
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
OpeningPlace = Literal["destination", "treasury"]
OpeningClaim = Literal["detected", "held", "disputed", "suspense"]

_MOVEMENTS: Final[dict[Kind, tuple[str, str]]] = {
    "accepted": ("suspense", "held"),
    "fee_borne": ("held", "transfer_cost"),
}
REASON_CHARACTERS: Final = 500
LISTED_MAXIMUM: Final = 100  # what a person can read at once


class ActionRefused(LedgerRefusal):
    """FL006: too few signatures, not by this person, or not what was proposed. The message says which."""


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
    signed_by: Sequence[str] = ()
    """Persons whose device signed these parameters, as the releases worker verified."""


def propose(connection: Connection, payment_id: UUID, kind: Kind, amount: Decimal, *, reason: str, by: str) -> UUID:
    """Propose to move ``amount`` (whole tokens) of a payment's primary asset. Nothing is posted.

    Raises LookupError for a payment without a route, ValueError for an amount, reason or label that is none.
    """
    route = _route(connection, payment_id, amount)
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


def propose_opening(
    connection: Connection,
    payment_id: UUID,
    amount: Decimal,
    *,
    place: OpeningPlace,
    address: str,
    claim: OpeningClaim,
    reason: str,
    by: str,
) -> UUID:
    """Propose what a payment had when the fleet joined its database: ``amount`` whole tokens of its primary asset.

    They lie at ``address`` (checksum), a deposit address or the treasury; ``claim`` says whose they are. Nothing is posted.
    Raises as ``propose``; executing it is refused once the payment's book has moved.
    """
    route = _route(connection, payment_id, amount)
    return _propose(
        connection,
        {
            "book_kind": "payment", "book_id": str(payment_id), "chain_id": route.chain_id, "token": route.token,
            "reason": "opening", "debit": place, "credit": claim, "amount": f"{amount:f}", "debit_address": address,
        },
        reason,
        by,
    )  # fmt: skip


def _route(connection: Connection, payment_id: UUID, amount: Decimal) -> Any:
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"amount: expected a number above zero, got {amount}")
    route = connection.execute(
        text("SELECT chain_id, token FROM fleet.payment_routes WHERE payment_id = :id"), {"id": payment_id}
    ).one_or_none()
    if route is None:
        raise LookupError(f"there is no payment {payment_id} with a route")
    return route


def propose_correction(connection: Connection, entry_id: UUID, *, reason: str, by: str) -> UUID:
    """Propose the exact reverse of an adjustment made by hand: at most once, and never of a reversal.

    Raises LookupError for an entry that is no adjustment by hand, or covers a loss: that has two sides.
    """
    row = connection.execute(
        text(
            "SELECT book_kind, book_id, chain_id, token, debit, credit, amount, debit_address, credit_address "
            "FROM public.funds_ledger_entries WHERE id = :id AND poster_role = 'fleet_operator' "
            "AND reverses_entry_id IS NULL AND reason <> 'covered'"
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


def propose_cover(
    connection: Connection, book_id: UUID, amount: Decimal, *, reason: str, by: str, token: str | None = None
) -> UUID:
    """Propose that the house covers ``amount`` (whole tokens) of the coins that a book has lost in its treasury (L5).

    A payment's loss: overdraft / loss in its book with loss / treasury_house in the house's, so that the payment has its
    coins again and the loss is the house's. A house's own: overdraft / treasury_house, its loss stays. Either way the
    treasury's coins are the same as before (L22). The rules' table says "treasury / overdraft" for the payment's entry;
    that would raise the overdraft as well as the treasury, and the books would be below the chain by the amount.

    ``token``: which asset, when the book has lost more than one. Raises LookupError for a book without such a loss or whose coins are missing elsewhere than in a treasury, ValueError.
    """
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"amount: expected a number above zero, got {amount}")
    lost = connection.execute(_LOST, {"book": book_id, "token": token}).all()
    if len(lost) != 1:
        found = "; ".join(f"{row.amount.normalize():f} of {row.token} at {row.address}" for row in lost) or "no loss"
        raise LookupError(f"book {book_id} has {found}: expected one token at one treasury")
    [row] = lost
    if row.house_id is None:
        raise LookupError(
            f"the coins are missing at {row.address}, which is no treasury: lift what keeps them there (a dispute), or "
            "send the same amount there"
        )
    common = {"chain_id": row.chain_id, "token": row.token, "reason": "covered", "amount": f"{amount:f}"}
    house = {
        **common, "book_kind": "house", "book_id": str(row.house_id), "credit": "treasury_house",
        "credit_address": row.address,
    }  # fmt: skip
    if row.book_kind == "house":
        return _propose(connection, {**house, "debit": "overdraft", "debit_address": row.address}, reason, by)
    payment = {
        **common, "book_kind": "payment", "book_id": str(book_id), "debit": "overdraft", "credit": "loss",
        "debit_address": row.address, "house": {**house, "debit": "loss"},
    }  # fmt: skip
    return _propose(connection, payment, reason, by)


_LOST = text(
    """
    SELECT e.book_kind, e.chain_id, e.token, leg.address, sum(leg.amount) AS amount, h.id AS house_id
    FROM public.funds_ledger_entries e CROSS JOIN LATERAL (VALUES
        (e.credit, e.credit_address, e.amount), (e.debit, e.debit_address, -e.amount)) AS leg (account, address, amount)
    LEFT JOIN fleet.house_accounts h ON h.chain_id = e.chain_id AND h.address = leg.address AND h.kind = 'treasury'
    WHERE e.book_id = :book AND leg.account = 'overdraft' AND (CAST(:token AS text) IS NULL OR e.token = :token)
    GROUP BY e.book_kind, e.chain_id, e.token, leg.address, h.id HAVING sum(leg.amount) > 0
    """
)


def require_reason(reason: str) -> None:
    """Raises ValueError for a reason that the table of actions cannot hold."""
    if not 1 <= len(reason) <= REASON_CHARACTERS:
        raise ValueError(f"reason: expected 1 to {REASON_CHARACTERS} characters, got {len(reason)}")


def _propose(connection: Connection, parameters: dict[str, Any], reason: str, by: str) -> UUID:
    require_reason(reason)
    require_label(by)
    statement = text("SELECT fleet.propose_adjustment(:parameters, :reason, :by)").bindparams(
        bindparam("parameters", type_=JSONB)
    )
    try:
        return connection.execute(statement, {"parameters": parameters, "reason": reason, "by": by}).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def execute(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> UUID:
    """Post what was proposed, as another person than who proposed it; returns the entry's id.

    ``agreed_hash``: hex, as shown. Raises ActionRefused or another LedgerRefusal; the transaction must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        return connection.execute(
            text("SELECT fleet.execute_adjustment(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def withdraw(connection: Connection, action_id: UUID, *, by: str) -> None:
    """Close a proposal without executing it. Raises ActionRefused if it is not open."""
    require_label(by)
    try:
        connection.execute(text("SELECT fleet.withdraw_action(:id, :by)"), {"id": action_id, "by": by})
    except DBAPIError as error:
        raise action_refusal(error) from error


def open_actions(connection: Connection, kind: str = "adjust") -> Sequence[Action]:
    """What of a kind waits for a second person, oldest first, at most LISTED_MAXIMUM."""
    rows = connection.execute(
        text(
            "SELECT id, kind, chain_id, parameters, encode(parameter_hash, 'hex') AS hash, reason, proposed_by, "
            "proposed_at, state, fleet.persons_who_signed(id, parameter_hash) AS signed_by "
            "FROM fleet.operator_actions WHERE state = 'proposed' AND kind = :kind ORDER BY proposed_at LIMIT :n"
        ),
        {"n": LISTED_MAXIMUM, "kind": kind},
    )
    return [Action(**row._mapping) for row in rows]


def require_label(by: str) -> None:
    """Raises ValueError for a label of a person that is none."""
    if not 1 <= len(by) <= 100:
        raise ValueError(f"by: expected 1 to 100 characters, got {len(by)}")


def read_hash(agreed_hash: str) -> bytes:
    """The hash that a second person typed. Raises ValueError."""
    try:
        return bytes.fromhex(agreed_hash)
    except ValueError:
        raise ValueError("hash: expected the hex digits that the list shows") from None


def action_refusal(error: DBAPIError) -> Exception:
    """The refusal behind a database error, or the error itself when it is none."""
    if sqlstate(error) == "FL006":
        return ActionRefused(str(error.orig).splitlines()[0])
    return refusal_of(error) or error
