"""Disputes in the books: they freeze a payment at once, and end it as the marketplace decided (R14, L4).

Opening, in one transaction: ``dispute_open`` rises, held -> disputed (``dispute_hold``), what is not handed out is
voided, of what is handed out a cancel is asked. From then on the database refuses a release of it. Closing waits until
no signature of it can be out; then the buyer's part stays disputed until its refund is reserved, the rest is held
again. A resolution that is not clear stays open for people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.ledger import Entry, LedgerRefusal, post
from custody.payments import TransitionRefused, lock_payment
from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.dispute_outcomes import Dispute, Outcome, Undecided
from custody.releases.fees import NO_FEES, FeeRates
from custody.releases.gate import ReleaseStopped
from custody.releases.grouping import leave_group
from custody.releases.instructions import FIRST, draft_release
from custody.releases.refunds import order_refund
from custody.releases.requests import ask
from custody.releases.rows import Instruction
from custody.releases.sources import Sources, SourceUnreadable, references
from custody.releases.states import ENDED, SIGNATURE_MAY_EXIST
from custody.releases.voiding import void_before_hand_out
from custody.settings.chains import Chains
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

REASON_CHARACTERS: Final = 1_000
ID_CHARACTERS: Final = 48  # an ObjectId has 24, a UUID 36
NAMES_LIMIT: Final = 10_000  # of requests in dispute that are looked up at once; the sources stop there as well

_IN_ESCROW: Final = "p.escrow_state IN ('funded', 'releasable', 'releasing', 'partial')"

_NAMED: Final = text(
    f"""
    SELECT p.id FROM public.payments p LEFT JOIN public.purchase_requests r ON r.id = p.purchase_request_id
    WHERE {_IN_ESCROW} AND (r.legacy_object_id = ANY (:names) OR p.purchase_request_external_ref = ANY (:names)
        OR CAST(p.purchase_request_id AS text) = ANY (:names))
    ORDER BY p.id LIMIT :limit
    """  # noqa: S608 - the condition is the constant above
)
_OPEN: Final = text("SELECT DISTINCT payment_id FROM fleet.payment_disputes WHERE state = 'open' LIMIT :limit")
_PAGE: Final = text(
    f"SELECT p.id FROM public.payments p WHERE {_IN_ESCROW} AND p.id > :after ORDER BY p.id LIMIT :limit"  # noqa: S608
)
_KNOWN: Final = text(
    "SELECT DISTINCT ON (payment_id, dispute_id) payment_id, dispute_id, opening, state FROM fleet.payment_disputes "
    "WHERE payment_id = ANY (:ids) ORDER BY payment_id, dispute_id, opening DESC"
)


@dataclass
class DisputeWatch:
    """Looks at disputes each round: every open one, every one in the books, and a page of all escrow besides."""

    engine: Engine
    sources: Sources
    _after: UUID = FIRST

    def run_once(self, limit: int) -> int:
        """Open and close disputes in the books as the marketplace says; how many moved.

        A source that cannot be read holds this back as it holds back the releases themselves (R14).
        """
        try:
            names = self.sources.names_in_dispute()
            named = self._in_view(names, limit)
            readings = self.sources.read(list(named.values()))
        except SourceUnreadable as error:
            log.warning("disputes_not_looked_for", reason=f"source_unreadable: {error}")
            return 0
        disputed = {payment: reading for payment, reading in readings.items() if reading.disputes}
        with transaction(self.engine) as connection:
            known = {
                (row.payment_id, row.dispute_id): row for row in connection.execute(_KNOWN, {"ids": list(disputed)})
            }
        return sum(
            self._judge(payment, dispute, known.get((payment, dispute.id)))
            for payment, reading in sorted(disputed.items())
            for dispute in reading.disputes
        )

    def _in_view(self, names: Sequence[str], limit: int) -> Mapping[UUID, Any]:
        with transaction(self.engine) as connection:
            found = set(connection.execute(_NAMED, {"names": list(names), "limit": NAMES_LIMIT}).scalars())
            found |= set(connection.execute(_OPEN, {"limit": NAMES_LIMIT}).scalars())
            page = list(connection.execute(_PAGE, {"after": self._after, "limit": limit}).scalars())
            self._after = page[-1] if len(page) == limit else FIRST
            return references(connection, sorted(found | set(page)))

    def _judge(self, payment_id: UUID, dispute: Dispute, known: Any) -> int:
        if not 0 < len(dispute.id) <= ID_CHARACTERS:
            log.error("dispute_id_refused", payment_id=str(payment_id), characters=len(dispute.id))
            return 0  # what was read of it stops the release all the same
        in_books = known is not None and known.state == "open"
        try:
            outcome = dispute.outcome()
            why = None
        except Undecided as error:
            outcome, why = None, f"dispute_undecided: {error}; settle it in the marketplace."
        if outcome is not None and not in_books and (known is not None or outcome.kind == "release"):
            return 0  # closed in the books too, or closed for the seller before anybody looked
        moved = 0
        try:
            with transaction(self.engine) as connection:
                if not in_books:
                    moved += open_dispute(connection, payment_id, dispute.id)
                if outcome is not None:
                    moved += close_dispute(connection, payment_id, dispute.id, outcome)
        except Undecided as error:
            why = f"dispute_undecided: {error}."
            if not in_books:
                with transaction(self.engine) as connection:
                    moved = open_dispute(connection, payment_id, dispute.id)
        except (LedgerRefusal, TransitionRefused) as error:
            why = f"books_refused: {error}"
            log.error("dispute_refused", payment_id=str(payment_id), dispute_id=dispute.id, reason=why)
        if why is not None:
            with transaction(self.engine) as connection:
                _say(connection, payment_id, dispute.id, why)
        return moved


def open_dispute(connection: Connection, payment_id: UUID, dispute_id: str) -> int:
    """Freeze a payment in the caller's transaction; 0 if this dispute stands open already.

    Raises LedgerRefusal, TransitionRefused.
    """
    instructions = _lock_open_ones(connection, payment_id)
    lock_payment(connection, payment_id)
    opening = connection.execute(
        text("SELECT fleet.open_dispute(:payment, :dispute)"), {"payment": payment_id, "dispute": dispute_id}
    ).scalar_one()
    if opening == 0:
        return 0
    book = _book(connection, payment_id)
    if book.held > 0:
        _move(
            connection,
            payment_id,
            book,
            "opened",
            "held",
            "disputed",
            book.held,
            f"dispute:{dispute_id}:{opening}:hold",
        )
    for instruction in instructions:
        if instruction.purpose != "release":
            continue  # a refund is the buyer's, a fee is the house's; the open dispute holds them back by itself
        if instruction.state not in SIGNATURE_MAY_EXIST:
            why = f"dispute {dispute_id} of payment {payment_id} was opened"
            leave_group(connection, instruction, why)
            void_before_hand_out(
                connection, rows.lock(connection, instruction.id), f"dispute_open: dispute {dispute_id} was opened"
            )
        elif instruction.state != "cancelling":
            # Of a group the one transaction is cancelled, and gives back what all its payments reserved (R1).
            out = instruction.group_id or instruction.id
            ask(connection, out, "cancel", reason=f"dispute {dispute_id} was opened", by="disputes")
            if out != instruction.id:
                rows.note(
                    connection, out, f"waits_for_cancel: dispute {dispute_id} of payment {payment_id} was opened."
                )
            rows.note(
                connection,
                instruction.id,
                f"waits_for_cancel: dispute {dispute_id} was opened; its cancel is prepared (R1).",
            )
    log.warning("dispute_opened", payment_id=str(payment_id), dispute_id=dispute_id, opening=opening)
    return 1


def close_dispute(connection: Connection, payment_id: UUID, dispute_id: str, outcome: Outcome) -> int:
    """Move what was disputed as the marketplace decided, in the caller's transaction; 0 while it must wait.

    Raises Undecided for a split that does not fit what is disputed, LedgerRefusal.
    """
    for instruction in _lock_open_ones(connection, payment_id):
        if instruction.purpose == "release" and instruction.state in SIGNATURE_MAY_EXIST:
            _say(
                connection,
                payment_id,
                dispute_id,
                f"waits_for_cancel: instruction {instruction.id} is {instruction.state}; its nonce must be spent first (R1).",
            )
            return 0
    lock_payment(connection, payment_id)
    book = _book(connection, payment_id)
    disputed = book.disputed - book.owed
    refund = outcome.refund_of(disputed, book.decimals)
    if outcome.kind != "release" and disputed <= 0:
        raise Undecided("nothing of the payment is disputed any more: it was paid before the dispute could stop it")
    opening = connection.execute(
        text(
            "SELECT opening FROM fleet.payment_disputes WHERE payment_id = :payment AND dispute_id = :dispute "
            "AND state = 'open'"
        ),
        {"payment": payment_id, "dispute": dispute_id},
    ).scalar_one()
    cause = f"dispute:{dispute_id}:{opening}"
    was_drafted = connection.execute(
        text("SELECT EXISTS (SELECT FROM fleet.release_instructions WHERE payment_id = :id AND purpose = 'release')"),
        {"id": payment_id},
    ).scalar_one()
    rest = disputed - refund
    remaining = connection.execute(
        text("SELECT fleet.close_dispute(:payment, :dispute, :outcome, :refund, :due)"),
        {
            "payment": payment_id,
            "dispute": dispute_id,
            "outcome": outcome.kind,
            "refund": refund,
            # The first release of an undisputed payment is found without it; one that the dispute voided is not.
            "due": rest > 0 and (outcome.orders_release or was_drafted),
        },
    ).scalar_one()
    if refund > 0:
        order_refund(connection, payment_id, amount=refund, source="disputed", cause=cause, by=f"dispute {dispute_id}")
    if remaining == 0 and rest > 0:
        _move(connection, payment_id, book, "lifted", "disputed", "held", rest, f"{cause}:lift")
    log.warning(
        "dispute_closed",
        payment_id=str(payment_id),
        dispute_id=dispute_id,
        outcome=outcome.kind,
        refund=f"{refund:f}",
        rest=f"{rest:f}",
    )
    return 1


def draft_after_disputes(
    engine: Engine, chains: Chains, limit: int, *, book: AddressBook | None = None, rates: FeeRates = NO_FEES
) -> int:
    """Draft the seller's part of what disputes left, once the gate is open; how many were drafted.

    ``book``, ``rates``: see release_gate.
    """
    with transaction(engine) as connection:
        due = connection.execute(
            text(
                """
                SELECT d.payment_id, d.dispute_id, d.opening FROM fleet.payment_disputes d
                WHERE d.release_due AND NOT EXISTS (
                    SELECT FROM fleet.payment_disputes o WHERE o.payment_id = d.payment_id AND o.state = 'open')
                ORDER BY d.closed_at LIMIT :limit
                """
            ),
            {"limit": limit},
        ).all()
    drafted = 0
    for row in due:
        cause = f"dispute:{row.dispute_id}:{row.opening}"
        with transaction(engine) as connection:
            try:
                draft_release(
                    connection, row.payment_id, chains, request_key=cause, book=book, cause=cause, rates=rates
                )
            except ReleaseStopped as error:
                _say(connection, row.payment_id, row.dispute_id, str(error.stops[0]))
                continue
            connection.execute(
                text(
                    "UPDATE fleet.payment_disputes SET release_due = false, held_reason = NULL "
                    "WHERE payment_id = :payment AND dispute_id = :dispute AND opening = :opening"
                ),
                {"payment": row.payment_id, "dispute": row.dispute_id, "opening": row.opening},
            )
            drafted += 1
    return drafted


def _lock_open_ones(connection: Connection, payment_id: UUID) -> list[Instruction]:
    """L17: the payment's instructions first, by id, and before them the groups that they are in."""
    rows.select(
        connection,
        "i.id IN (SELECT m.group_id FROM fleet.release_instructions m WHERE m.payment_id = :payment "
        "AND m.group_id IS NOT NULL AND m.state <> ALL (:ended))",
        {"payment": payment_id, "ended": sorted(ENDED)},
        suffix="ORDER BY i.id FOR UPDATE",
    )
    return rows.select(
        connection,
        "i.payment_id = :payment AND i.state <> ALL (:ended)",
        {"payment": payment_id, "ended": sorted(ENDED)},
        suffix="ORDER BY i.id FOR UPDATE",
    )


def _book(connection: Connection, payment_id: UUID) -> Any:
    """The payment's primary row; ``owed`` is what refund orders wait to take out of what is disputed.

    The payment's lock, which the caller holds, keeps what is read: whoever moves held or disputed takes it first.
    """
    return connection.execute(
        text(
            """
            SELECT b.chain_id, b.token, b.held, b.disputed, t.decimals, (
                SELECT coalesce(sum(o.amount), 0) FROM fleet.refund_orders o
                LEFT JOIN fleet.release_instructions i ON i.id = o.instruction_id
                WHERE o.payment_id = r.payment_id AND o.source = 'disputed'
                    AND (i.id IS NULL OR i.state = 'drafted')) AS owed
            FROM fleet.payment_routes r
            JOIN fleet.ledger_balances b ON b.book_id = r.payment_id AND b.chain_id = r.chain_id AND b.token = r.token
            JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
            WHERE r.payment_id = :payment
            """
        ),
        {"payment": payment_id},
    ).one()


def _move(
    connection: Connection, payment_id: UUID, book: Any, reason: str, debit: str, credit: str, amount: Decimal, key: str
) -> None:
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=payment_id,
            chain_id=book.chain_id,
            token=book.token,
            entry_type="dispute_hold",
            reason=reason,
            debit=debit,
            credit=credit,
            amount=amount,
            key=key,
            evidence={},
        ),
    )


def _say(connection: Connection, payment_id: UUID, dispute_id: str, reason: str) -> None:
    connection.execute(
        text(
            "UPDATE fleet.payment_disputes SET held_reason = :reason WHERE payment_id = :payment AND dispute_id = :dispute "
            "AND (state = 'open' OR release_due) AND held_reason IS DISTINCT FROM :reason"
        ),
        {"payment": payment_id, "dispute": dispute_id, "reason": reason[:REASON_CHARACTERS]},
    )
