"""Judging one payment's deep transfers: what of each is due is held, the rest waits in suspense (L7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.chain.blocks import BlockHeader
from custody.chain.cursor import read_cursor
from custody.chain.depth import confirmations, effective_threshold
from custody.chain.facts import lock_destinations
from custody.ledger import Entry, post
from custody.payments.late_money import CLOSED_STATUSES, quarantine_late
from custody.payments.standing import OPEN_STATUSES, Route, held_ever, route_of
from custody.payments.transitions import PaymentState, lock_payment, move_payment
from custody.settings.thresholds import newest_threshold
from custody.store.outbox import mirror, ring

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Blocks that bind now on a chain, and the history row they come from (None: only the floor)."""

    blocks: int
    history_id: UUID | None


def binding_threshold(connection: Connection, chain_id: int) -> Threshold:
    """max(newest history row, the chain's floor), in blocks (design §5). Raises UnknownChain, ValueError."""
    newest = newest_threshold(connection, chain_id)
    blocks = effective_threshold(chain_id, None if newest is None else newest.value_blocks)
    return Threshold(blocks, None if newest is None else newest.history_id)


@dataclass(frozen=True, slots=True)
class DeepFact:
    """A live inbound fact that is not judged yet; ``amount`` in whole tokens."""

    id: UUID
    payment_id: UUID
    chain_id: int
    token: str
    transaction_hash: str
    block_number: int
    block_hash: str
    log_index: int
    destination_id: UUID | None
    amount: Decimal
    is_guess: bool
    """Attributed to the newest payment of its address, because nothing better was known (L11)."""


_WAITING: Final = """
SELECT f.id, f.payment_id, f.chain_id, f.token, f.transaction_hash, f.block_number, f.block_hash, f.log_index,
    f.destination_id, f.amount_units, t.decimals, e.metadata ->> 'attribution' AS basis
FROM fleet.chain_facts f
JOIN fleet.tokens t ON t.chain_id = f.chain_id AND t.token = f.token
JOIN public.funds_ledger_entries e ON e.fact_id = f.id AND e.entry_type = 'payment_detected'
WHERE f.live AND f.judged_at IS NULL AND f.direction = 'inbound' AND f.payment_id IS NOT NULL
"""


def waiting_facts(connection: Connection, condition: str, **parameters: object) -> list[DeepFact]:
    rows = connection.execute(text(_WAITING + condition), parameters)
    return [
        DeepFact(
            id=row.id,
            payment_id=row.payment_id,
            chain_id=row.chain_id,
            token=row.token,
            transaction_hash=row.transaction_hash,
            block_number=row.block_number,
            block_hash=row.block_hash,
            log_index=row.log_index,
            destination_id=row.destination_id,
            amount=to_amount(int(row.amount_units), row.decimals),
            is_guess=row.basis == "newest",
        )
        for row in rows
    ]


def judge(connection: Connection, chain_id: int, payment_id: UUID, fact_ids: Sequence[UUID], head: BlockHeader) -> int:
    """Split those of the payment's transfers that are deep enough at ``head``; return how many.

    The caller has seen each fact's block on the canonical chain under ``head``, outside this transaction.
    Raises LedgerRefusal, TransitionRefused, LookupError; roll the transaction back then.
    """
    facts = waiting_facts(
        connection,
        "AND f.payment_id = :payment_id AND f.chain_id = :chain_id AND f.id = ANY(:ids) "
        "ORDER BY f.block_number, f.log_index, f.id FOR UPDATE OF f",
        payment_id=payment_id,
        chain_id=chain_id,
        ids=list(fact_ids),
    )
    lock_destinations(connection, {fact.destination_id for fact in facts if fact.destination_id is not None})
    state = lock_payment(connection, payment_id)
    cursor = read_cursor(connection, chain_id)
    if cursor is None or cursor.paused_reason is not None:
        return 0
    threshold = binding_threshold(connection, chain_id)
    deep = [fact for fact in facts if confirmations(head.number, fact.block_number) >= threshold.blocks]
    if not deep:
        return 0
    route = route_of(connection, payment_id)
    due = route.expected - held_ever(connection, route)
    for fact in deep:
        share = min(fact.amount, due) if _counts(fact, route, state) else Decimal(0)
        share = max(share, Decimal(0))
        _split(connection, _Judgement(fact, route, state, threshold, head, due, share))
        due -= share
    connection.execute(
        text("UPDATE fleet.chain_facts SET judged_at = clock_timestamp() WHERE id = ANY(:ids)"),
        {"ids": [fact.id for fact in deep]},
    )
    _move(connection, route, state, due)
    connection.execute(
        text("UPDATE public.payments SET confirmations = :n, updated_at = clock_timestamp() WHERE id = :id"),
        {"n": min(confirmations(head.number, fact.block_number) for fact in deep), "id": payment_id},
    )
    mirror(connection, "payments", payment_id)
    ring(connection, "sweeps")
    return len(deep)


@dataclass(frozen=True, slots=True)
class _Judgement:
    """One transfer, what it was judged by, and its share that is held. Amounts in whole tokens."""

    fact: DeepFact
    route: Route
    state: PaymentState
    threshold: Threshold
    head: BlockHeader
    due: Decimal
    share: Decimal

    @property
    def rest_reason(self) -> str:
        """Why what is not held goes to suspense."""
        if (self.fact.chain_id, self.fact.token) != (self.route.chain_id, self.route.token):
            return "wrong_token"
        return "late" if self.state.status in CLOSED_STATUSES else "surplus"

    @property
    def evidence(self) -> dict[str, object]:
        history_id = self.threshold.history_id
        return {
            "threshold": self.threshold.blocks,
            "history_id": None if history_id is None else str(history_id),
            "head_number": self.head.number,
            "head_hash": self.head.hash,
            "block_number": self.fact.block_number,
            "block_hash": self.fact.block_hash,
            "confirmations": confirmations(self.head.number, self.fact.block_number),
            "received": f"{self.fact.amount:f}",
            "due": f"{self.due:f}",
            **({"attribution": "newest"} if self.fact.is_guess else {}),
        }


def _counts(fact: DeepFact, route: Route, state: PaymentState) -> bool:
    """Whether a transfer may pay what is due: the expected asset, an open payment, surely its own (L11)."""
    return (
        (fact.chain_id, fact.token) == (route.chain_id, route.token)
        and state.status not in CLOSED_STATUSES
        and not fact.is_guess
    )


def _split(connection: Connection, judgement: _Judgement) -> None:
    fact, share = judgement.fact, judgement.share
    rest = fact.amount - share
    if share > 0:
        disputed = _disputes_open(connection, judgement.route) > 0
        _post(connection, judgement, ("hold", "deep", "disputed" if disputed else "held"), share)
    if rest > 0:
        _post(connection, judgement, ("adjustment", judgement.rest_reason, "suspense"), rest)
        if judgement.rest_reason == "late":
            quarantine_late(
                connection,
                judgement.route,
                fact.destination_id,
                token=fact.token,
                amount=rest,
                status=judgement.state.status,
            )
    log.info(
        "transfer_judged",
        payment_id=str(fact.payment_id),
        fact_id=str(fact.id),
        held=f"{share:f}",
        suspense=f"{rest:f}",
        reason=judgement.rest_reason if rest > 0 else None,
        threshold=judgement.threshold.blocks,
        head_number=judgement.head.number,
    )


def _post(connection: Connection, judgement: _Judgement, movement: tuple[str, str, str], amount: Decimal) -> None:
    fact = judgement.fact
    entry_type, reason, credit = movement
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=fact.payment_id,
            chain_id=fact.chain_id,
            token=fact.token,
            entry_type=entry_type,
            reason=reason,
            debit="detected",
            credit=credit,
            amount=amount,
            key=f"fact:{fact.id}:{'suspense' if credit == 'suspense' else 'hold'}",
            fact_id=fact.id,
            evidence=judgement.evidence,
        ),
    )


def _disputes_open(connection: Connection, route: Route) -> int:
    return connection.execute(
        text(
            "SELECT coalesce(max(dispute_open), 0) FROM fleet.ledger_balances "
            "WHERE book_id = :id AND chain_id = :chain_id AND token = :token"
        ),
        {"id": route.payment_id, "chain_id": route.chain_id, "token": route.token},
    ).scalar_one()


def _move(connection: Connection, route: Route, state: PaymentState, due: Decimal) -> None:
    """partial until everything expected is held, then funded. A payment beyond that keeps its state."""
    if state.status not in OPEN_STATUSES or due == route.expected:
        return
    if state.status == "pending":
        move_payment(connection, route.payment_id, "detected")
    move_payment(connection, route.payment_id, "held" if due <= 0 else "part_held")
