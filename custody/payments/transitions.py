"""How payment_status and escrow_state may move (seed enums; amanat-facts §2.1, §2.2): one table, one door.

The database holds the same table (custody/payments/sql/payment_transitions.sql) and refuses every other move, whoever
asks; a test compares the two.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.store.outbox import mirror

STATUSES: Final = ("pending", "processing", "confirmed", "completed", "failed", "cancelled", "refunded")
ESCROW_STATES: Final = (
    "funded",
    "releasable",
    "released",
    "refunded",
    "releasing",
    "failed",
    "cancelled",
    "partial",
)


@dataclass(frozen=True, slots=True)
class PaymentState:
    """(payment_status, escrow_state or None while nothing is held)."""

    status: str
    escrow: str | None


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal move, and the ledger entry that is appended with it (None: no money moves).

    ``needs``: the reason that the entry must have in the books before the database lets the payment move.
    """

    name: str
    sources: tuple[PaymentState, ...]
    target: PaymentState
    entry: str | None
    needs: str | None = None


_PENDING = PaymentState("pending", None)
_PROCESSING = PaymentState("processing", None)
_PARTIAL = PaymentState("processing", "partial")
_FUNDED = PaymentState("confirmed", "funded")
_RELEASABLE = PaymentState("confirmed", "releasable")
_RELEASING = PaymentState("confirmed", "releasing")
_RELEASED = PaymentState("completed", "released")
_REFUNDED = PaymentState("refunded", "refunded")

TRANSITIONS: Final = {
    item.name: item
    for item in (
        Transition("detected", (_PENDING,), _PROCESSING, "payment_detected"),
        Transition("part_held", (_PROCESSING,), _PARTIAL, "hold"),
        Transition("held", (_PROCESSING, _PARTIAL), _FUNDED, "hold"),
        Transition("became_releasable", (_FUNDED,), _RELEASABLE, None),
        Transition("release_reserved", (_RELEASABLE,), _RELEASING, "release", "reserve"),
        Transition("release_voided", (_RELEASING,), _RELEASABLE, "release", "void"),
        Transition("released", (_RELEASING,), _RELEASED, "release", "final"),
        # A part was paid: the rest is held as before, and the last of it decides how the payment ends.
        Transition("part_released", (_RELEASING,), _FUNDED, "release", "final"),
        Transition("rest_refunded", (_FUNDED, _RELEASABLE), _RELEASED, "release", "final"),
        Transition("refunded", (_FUNDED, _RELEASABLE, _PARTIAL), _REFUNDED, "refund", "final"),
        # Reorganisations take back what the chain took back (L1); the reverse entries are the watcher's.
        Transition("undetected", (_PROCESSING,), _PENDING, "adjustment"),
        Transition("unheld", (_FUNDED, _RELEASABLE, _PARTIAL), _PROCESSING, "adjustment"),
        # The backend's: it closes a payment that nobody paid, with or without an escrow state.
        Transition("cancelled", (_PENDING,), PaymentState("cancelled", "cancelled"), None),
        Transition("failed", (_PENDING,), PaymentState("failed", "failed"), None),
        Transition("cancelled_bare", (_PENDING,), PaymentState("cancelled", None), None),
        Transition("failed_bare", (_PENDING,), PaymentState("failed", None), None),
    )
}


class TransitionRefused(Exception):
    """The payment is in another state than the move starts from. The message says which moves are legal."""


def legal_moves(state: PaymentState) -> tuple[str, ...]:
    """The names of the moves that may start in ``state``."""
    return tuple(name for name, item in TRANSITIONS.items() if state in item.sources)


_LOCK = text(
    "SELECT id, status::text, escrow_state::text FROM public.payments WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE"
)
_MOVE = text(
    """
    UPDATE public.payments p
    SET status = CAST(m.status AS public.payment_status),
        escrow_state = CAST(m.escrow AS public.escrow_state), updated_at = clock_timestamp()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:escrows AS text[])) AS m (id, status, escrow)
    WHERE p.id = m.id
    """
)


def lock_payments(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, PaymentState]:
    """Lock the payments' rows by id (L17: before their balance rows) and return their states. Raises LookupError."""
    rows = connection.execute(_LOCK, {"ids": list(payment_ids)})
    states = {row.id: PaymentState(row.status, row.escrow_state) for row in rows}
    for payment_id in payment_ids:
        if payment_id not in states:
            raise LookupError(f"there is no payment {payment_id}")
    return states


def lock_payment(connection: Connection, payment_id: UUID) -> PaymentState:
    """Lock the payment's row (L17: before its balance rows) and return its state. Raises LookupError."""
    return lock_payments(connection, [payment_id])[payment_id]


def move_payments(
    connection: Connection, states: Mapping[UUID, PaymentState], moves: Mapping[UUID, str]
) -> dict[UUID, PaymentState]:
    """Move payments, each by its named transition, in one statement; return all states as they are then.

    ``states``: of rows that the caller has locked. A move already made is no error; the mirror is the caller's to ask
    for. Raises TransitionRefused for the first that is refused, or KeyError for a move that does not exist.
    """
    targets: dict[UUID, PaymentState] = {}
    for payment_id, move in moves.items():
        transition = TRANSITIONS[move]
        state = states[payment_id]
        if state == transition.target:
            continue
        if state not in transition.sources:
            allowed = ", ".join(legal_moves(state)) or "none"
            raise TransitionRefused(
                f"payment {payment_id} is {state.status}/{state.escrow or 'no escrow'}: "
                f"'{move}' is not legal there; legal: {allowed}"
            )
        targets[payment_id] = transition.target
    if targets:
        connection.execute(
            _MOVE,
            {
                "ids": list(targets),
                "statuses": [target.status for target in targets.values()],
                "escrows": [target.escrow for target in targets.values()],
            },
        )
    return {**states, **targets}


def move_payment(connection: Connection, payment_id: UUID, move: str) -> PaymentState:
    """Move a payment by the named transition and ask for its mirror; a move already made is no error.

    The entry that ``TRANSITIONS`` names is posted by the caller in the same transaction.
    Raises TransitionRefused, or KeyError for a move that does not exist.
    """
    TRANSITIONS[move]
    before = lock_payments(connection, [payment_id])
    after = move_payments(connection, before, {payment_id: move})
    if after != before:
        mirror(connection, "payments", payment_id)
    return after[payment_id]
