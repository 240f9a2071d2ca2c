"""Judging payments' deep transfers: what of each is due is held, the rest waits in suspense (L7).

Any number of payments cost the same few statements; the rows are locked in L17's order: facts, payments, balances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.assets import to_amount, to_units
from custody.chain.blocks import BlockHeader
from custody.chain.cursor import read_cursor
from custody.chain.depth import confirmations, effective_threshold
from custody.chain.facts import lock_destinations
from custody.ledger import BATCH_MAXIMUM, Entry, post_together
from custody.payments.late_money import CLOSED_STATUSES, quarantine_late
from custody.payments.sanctions import Sanctions, quarantine_sanctioned, sanctions_on
from custody.payments.standing import OPEN_STATUSES, Route, Standing, standings
from custody.payments.transitions import PaymentState, lock_payments, move_payments
from custody.settings.thresholds import newest_thresholds
from custody.store.outbox import mirror_all, ring

FACTS_MAXIMUM: Final = BATCH_MAXIMUM // 2  # each posts two entries at most, all of them together

_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Blocks that bind now on a chain, and the history row they come from (None: only the floor)."""

    blocks: int
    history_id: UUID | None


def binding_threshold(connection: Connection, chain_id: int) -> Threshold:
    """max(newest history row, the chain's floor), in blocks (design §5). Raises UnknownChain, ValueError."""
    return binding_thresholds(connection, [chain_id])[chain_id]


def binding_thresholds(connection: Connection, chain_ids: Sequence[int]) -> dict[int, Threshold]:
    """The same of several chains in one query, by chain id."""
    newest = newest_thresholds(connection, chain_ids)
    found: dict[int, Threshold] = {}
    for chain_id in chain_ids:
        row = newest.get(chain_id)
        blocks = effective_threshold(chain_id, None if row is None else row.value_blocks)
        found[chain_id] = Threshold(blocks, None if row is None else row.history_id)
    return found


@dataclass(frozen=True, slots=True)
class DeepFact:
    """A live inbound fact that is not judged yet; ``amount``, whole tokens: what it brought and was booked as seen."""

    id: UUID
    payment_id: UUID
    chain_id: int
    token: str
    transaction_hash: str
    block_number: int
    block_hash: str
    log_index: int
    sender: str
    recipient: str
    units: int
    """The amount in the token's smallest units."""
    destination_id: UUID | None
    amount: Decimal
    is_guess: bool
    """Attributed to the newest payment of its address, because nothing better was known (L11)."""


_WAITING: Final = """
SELECT f.id, f.payment_id, f.chain_id, f.token, f.transaction_hash, f.block_number, f.block_hash, f.log_index,
    f.sender, f.recipient, f.destination_id, f.amount_units, e.amount, t.decimals, e.metadata ->> 'attribution' AS basis
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
            sender=row.sender,
            recipient=row.recipient,
            units=int(row.amount_units),
            destination_id=row.destination_id,
            amount=to_amount(to_units(row.amount, row.decimals), row.decimals),
            is_guess=row.basis == "newest",
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest block that a fact was seen under, read outside any transaction, and how many nodes agreed."""

    head: BlockHeader
    nodes: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """One transfer, what it was judged by, and its share that is held. Amounts in whole tokens."""

    fact: DeepFact
    standing: Standing
    state: PaymentState
    threshold: Threshold
    seen: Seen
    due: Decimal
    share: Decimal
    sanctions: Sanctions

    @property
    def is_sanctioned(self) -> bool:
        return self.fact.sender in self.sanctions.senders

    @property
    def rest(self) -> Decimal:
        """What of it goes to suspense."""
        return self.fact.amount - self.share

    @property
    def rest_reason(self) -> str:
        """Why what is not held goes to suspense."""
        if self.is_sanctioned:
            return "sanctioned"
        if not _is_expected(self.fact, self.standing.route):
            return "wrong_token"
        return "late" if self.state.status in CLOSED_STATUSES else "surplus"

    @property
    def depth(self) -> int:
        return confirmations(self.seen.head.number, self.fact.block_number)

    @property
    def evidence(self) -> dict[str, object]:
        history_id = self.threshold.history_id
        return {
            "threshold": self.threshold.blocks,
            "history_id": None if history_id is None else str(history_id),
            "head_number": self.seen.head.number,
            "head_hash": self.seen.head.hash,
            "nodes": self.seen.nodes,
            "block_number": self.fact.block_number,
            "block_hash": self.fact.block_hash,
            "confirmations": self.depth,
            "received": f"{self.fact.amount:f}",
            "due": f"{self.due:f}",
            **self.sanctions.evidence,
            **({"attribution": "newest"} if self.fact.is_guess else {}),
        }


def judge(connection: Connection, chain_id: int, seen: Mapping[UUID, Seen]) -> Sequence[Judgement]:
    """Split those of up to FACTS_MAXIMUM transfers, by their ids, that are deep enough; return what came of each.

    The caller has seen each fact's block on the canonical chain under ``seen``, outside this transaction.
    Raises LedgerRefusal, TransitionRefused, LookupError; roll the transaction back then, nothing was judged.
    """
    facts = waiting_facts(
        connection,
        "AND f.chain_id = :chain_id AND f.id = ANY(:ids) ORDER BY f.id FOR UPDATE OF f",
        chain_id=chain_id,
        ids=list(seen),
    )
    if not facts:
        return []
    lock_destinations(connection, {fact.destination_id for fact in facts if fact.destination_id is not None})
    states = lock_payments(connection, {fact.payment_id for fact in facts})
    cursor = read_cursor(connection, chain_id)
    if cursor is None or cursor.paused_reason is not None:
        return []
    threshold = binding_threshold(connection, chain_id)
    # The cursor may have fallen back since: above what the nodes agree on by now, nothing is held (L13).
    highest = cursor.agreed_number
    deep = [
        fact
        for fact in facts
        if confirmations(seen[fact.id].head.number, fact.block_number) >= threshold.blocks
        and (highest is None or seen[fact.id].head.number <= highest)
    ]
    if not deep:
        return []
    payment_ids = {fact.payment_id for fact in deep}
    standing = standings(connection, payment_ids)
    sanctions = sanctions_on(connection, chain_id, {fact.sender for fact in deep})
    deep.sort(key=lambda fact: (fact.payment_id, fact.block_number, fact.log_index))
    judgements: list[Judgement] = []
    for payment_id, group in groupby(deep, key=lambda fact: fact.payment_id):
        due = standing[payment_id].route.expected - standing[payment_id].held
        for fact in group:
            counts = fact.sender not in sanctions.senders and _counts(
                fact, standing[payment_id].route, states[payment_id]
            )
            share = max(min(fact.amount, due), _NOTHING) if counts else _NOTHING
            judgements.append(
                Judgement(
                    fact, standing[payment_id], states[payment_id], threshold, seen[fact.id], due, share, sanctions
                )
            )
            due -= share
    _quarantine(connection, judgements)
    post_together(connection, [entry for judgement in judgements for entry in _entries(judgement)])
    connection.execute(
        text("UPDATE fleet.chain_facts SET judged_at = clock_timestamp() WHERE id = ANY(:ids)"),
        {"ids": [fact.id for fact in deep]},
    )
    _move(connection, judgements, states)
    _show_confirmations(connection, judgements)
    mirror_all(connection, "payments", sorted(payment_ids))
    ring(connection, "sweeps")
    return judgements


def _quarantine(connection: Connection, judgements: Sequence[Judgement]) -> None:
    """Mark the addresses of late and of sanctioned money that is no dust (R13); their rows are locked."""
    for judgement in judgements:
        if judgement.rest > 0 and judgement.rest_reason == "late":
            quarantine_late(
                connection,
                judgement.standing.route,
                judgement.fact.destination_id,
                token=judgement.fact.token,
                amount=judgement.rest,
                status=judgement.state.status,
            )
    sanctioned = sorted((one for one in judgements if one.is_sanctioned), key=_book)
    for _, group in groupby(sanctioned, key=_book):
        together = list(group)
        facts, route, token = [one.fact for one in together], together[0].standing.route, together[0].fact.token
        quarantine_sanctioned(
            connection,
            route,
            {fact.destination_id for fact in facts if fact.destination_id is not None},
            token=token,
            amount=sum((fact.amount for fact in facts), _NOTHING),
            senders=sorted({fact.sender for fact in facts}),
        )


def _book(judgement: Judgement) -> tuple[UUID, str]:
    return judgement.fact.payment_id, judgement.fact.token


def _is_expected(fact: DeepFact, route: Route) -> bool:
    return (fact.chain_id, fact.token) == (route.chain_id, route.token)


def _counts(fact: DeepFact, route: Route, state: PaymentState) -> bool:
    """Whether a transfer may pay what is due: the expected asset, an open payment, surely its own (L11)."""
    return _is_expected(fact, route) and state.status not in CLOSED_STATUSES and not fact.is_guess


def _entries(judgement: Judgement) -> list[Entry]:
    entries: list[Entry] = []
    if judgement.share > 0:
        credit = "disputed" if judgement.standing.disputes_open > 0 else "held"
        entries.append(_entry(judgement, ("hold", "deep", credit), judgement.share))
    if judgement.rest > 0:
        entries.append(_entry(judgement, ("adjustment", judgement.rest_reason, "suspense"), judgement.rest))
    return entries


def _entry(judgement: Judgement, movement: tuple[str, str, str], amount: Decimal) -> Entry:
    fact = judgement.fact
    entry_type, reason, credit = movement
    return Entry(
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
    )


def _move(connection: Connection, judgements: Sequence[Judgement], states: Mapping[UUID, PaymentState]) -> None:
    """partial until everything expected is held, then funded. A payment beyond that keeps its state."""
    moves: dict[UUID, str] = {}
    for judgement in judgements:  # a payment's last one says what is still due
        due = judgement.due - judgement.share
        if judgement.state.status in OPEN_STATUSES and due != judgement.standing.route.expected:
            moves[judgement.fact.payment_id] = "held" if due <= 0 else "part_held"
    unseen = {payment_id: "detected" for payment_id in moves if states[payment_id].status == "pending"}
    move_payments(connection, move_payments(connection, states, unseen), moves)


def _show_confirmations(connection: Connection, judgements: Sequence[Judgement]) -> None:
    """The depth that the backend shows: of each payment, the least that was judged now."""
    least: dict[UUID, int] = {}
    for judgement in judgements:
        payment_id = judgement.fact.payment_id
        least[payment_id] = min(judgement.depth, least.get(payment_id, judgement.depth))
    connection.execute(
        text(
            """
            UPDATE public.payments p SET confirmations = m.depth, updated_at = clock_timestamp()
            FROM unnest(CAST(:ids AS uuid[]), CAST(:depths AS integer[])) AS m (id, depth) WHERE p.id = m.id
            """
        ),
        {"ids": list(least), "depths": list(least.values())},
    )
