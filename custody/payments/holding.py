"""Holding: a transfer that is deep enough becomes money held in escrow (L7, L13).

The confirmations' step. A transfer is judged on receipts that a quorum of nodes shows at that moment (R17), not on what
the watcher once saw; the threshold is read anew for every judgement, so a change binds at once. One transaction judges
many payments.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.chain.agreement import Agreed, Disagreement, carries, weigh, weigh_block
from custody.chain.blocks import ReceiptsAndHeaders
from custody.chain.cursor import Cursor, read_cursor
from custody.chain.looks import request_look
from custody.chain.native import BALANCE
from custody.chain.nodes import ChainNodes, why_stale
from custody.ledger import DisputeOpen, LedgerRefusal
from custody.payments.judging import FACTS_MAXIMUM, DeepFact, Judgement, Seen, binding_threshold, judge, waiting_facts
from custody.payments.transitions import TransitionRefused
from custody.settings.chains import Chain, Chains
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction
from custody.store.work import bury

log = structlog.get_logger(__name__)

QUEUE: Final = "confirmations"
BATCH_PAYMENTS: Final = 100  # a block's worth in one transaction, which takes well under a second
_PAYMENT_FAILURES: Final = (LedgerRefusal, TransitionRefused, LookupError, DBAPIError)


def run_once(engine: Engine, chains: Chains, nodes: Mapping[int, ChainNodes], limit: int) -> int:
    """Judge up to ``limit`` transfers a chain that are deep enough; return how many were split.

    ``nodes``: all configured ones, by chain id. A chain without is left alone; one of whose nodes too few can be used
    or agree waits, and the log says so.
    """
    judged = sum(_judge_chain(engine, nodes[chain.id], limit) for chain in chains.chains if chain.id in nodes)
    with transaction(engine) as connection:
        _resolve_what_waits_no_more(connection)
    if judged:
        ring_relay(engine)
    return judged


def _judge_chain(engine: Engine, nodes: ChainNodes, limit: int) -> int:
    chain = nodes.chain
    with transaction(engine) as connection:
        cursor = read_cursor(connection, chain.id)
        if cursor is None:
            return 0
        highest = _highest(cursor, nodes)
        threshold = binding_threshold(connection, chain.id)
        # A payment that failed before comes last, so that a hundred of them stop nobody.
        deep = waiting_facts(
            connection,
            """
            AND f.chain_id = :chain_id AND f.block_number <= :deepest
            ORDER BY EXISTS (SELECT FROM fleet.dead_work d WHERE d.queue = :queue AND d.resolved_at IS NULL
                AND d.subject_kind = 'payment' AND d.subject_id = f.payment_id::text), f.block_number, f.id
            LIMIT :limit
            """,
            chain_id=chain.id,
            deepest=_deepest(cursor, highest, threshold.blocks, nodes.chain),
            queue=QUEUE,
            limit=limit,
        )
        failed = _failed_before(connection, {fact.payment_id for fact in deep})
    if not deep:
        return 0
    if cursor.paused_reason is not None:
        log.warning("holds_wait", chain_id=chain.id, reason=f"the chain is paused: {cursor.paused_reason}")
        return 0
    if highest is None:
        log.warning("holds_wait", chain_id=chain.id, reason="quorum: the nodes have not agreed on a block yet")
        return 0
    forbid_inside_transaction("reading receipts")
    answers = _usable_answers(nodes, deep, highest)
    if len(answers) < nodes.quorum:
        return 0
    weighed = _weigh(nodes, deep, answers, highest)
    _look_again(engine, chain, weighed.gone)
    judged = sum(
        _judge_batch(engine, batch, weighed.seen)
        for batch in _batches([fact for fact in deep if fact.id in weighed.seen], failed)
    )
    _show_doubtful(engine, nodes, weighed, len(answers))
    return judged


def _deepest(cursor: Cursor, highest: int | None, threshold: int, chain: Chain) -> int:
    """The newest block that may be deep enough: by its depth, and by the chain's own tag where one is set (L13)."""
    by_depth = (cursor.head_number if highest is None else highest) - threshold + 1
    return by_depth if chain.finality_tag is None else min(by_depth, cursor.finalized_number or 0)


def _highest(cursor: Cursor, nodes: ChainNodes) -> int | None:
    """The block up to which depth counts: the newest that a quorum agrees on, as the watcher last saw it (L13).

    None before there was one; where a development chain has a single node, its head is what is agreed on.
    """
    if cursor.agreed_number is None and nodes.chain.is_development and len(nodes.clients) == 1:
        return cursor.head_number
    return cursor.agreed_number


def _usable_answers(nodes: ChainNodes, deep: Sequence[DeepFact], highest: int) -> list[ReceiptsAndHeaders]:
    """What the nodes say that answer and are not stale; the others are put aside and said so (L13)."""
    found, aside = nodes.answers(
        [fact.transaction_hash for fact in deep if fact.log_index != BALANCE],
        {fact.block_number for fact in deep} | {highest},
    )
    now = int(time.time())
    usable: list[ReceiptsAndHeaders] = []
    for url, answer in found:
        stale = why_stale(nodes.chain, answer.head, now)
        if stale is None:
            usable.append(answer)
        else:
            aside.append(f"{url}: {stale}")
    if len(usable) < nodes.quorum:
        reason = (
            f"quorum: {len(usable)} of {nodes.quorum} nodes can be used: {'; '.join(aside) or 'no other is configured'}"
        )
        log.warning("holds_wait", chain_id=nodes.chain.id, reason=reason)
    elif aside:
        log.warning("nodes_put_aside", chain_id=nodes.chain.id, reason="; ".join(aside))
    return usable


@dataclass(slots=True)
class _Weighed:
    """The due transfers by what the nodes say of them."""

    seen: dict[UUID, Seen] = field(default_factory=dict[UUID, Seen])
    gone: list[DeepFact] = field(default_factory=list[DeepFact])
    undecided: list[DeepFact] = field(default_factory=list[DeepFact])
    unfounded: list[DeepFact] = field(default_factory=list[DeepFact])
    """The nodes agree on a receipt that does not carry the transfer."""


def _weigh(
    nodes: ChainNodes, deep: Sequence[DeepFact], answers: Sequence[ReceiptsAndHeaders], highest: int
) -> _Weighed:
    result = _Weighed()
    for fact in deep:
        block = (fact.block_number, fact.block_hash)
        if fact.log_index == BALANCE:  # L8: a block's balance told of it, no transaction
            stands = weigh_block(answers, nodes.quorum, block, highest)
            if isinstance(stands, Disagreement):
                (result.gone if stands is Disagreement.GONE else result.undecided).append(fact)
            else:
                result.seen[fact.id] = Seen(*stands)
            continue
        found = weigh(answers, nodes.quorum, fact.transaction_hash, block, highest)
        if found is Disagreement.GONE:
            result.gone.append(fact)
        elif not isinstance(found, Agreed):
            result.undecided.append(fact)
        elif not carries(
            found.receipt, token=fact.token, log_index=fact.log_index, recipient=fact.recipient, units=fact.units
        ):
            result.unfounded.append(fact)
        else:
            result.seen[fact.id] = Seen(found.head, found.nodes)
    return result


def _look_again(engine: Engine, chain: Chain, vanished: Sequence[DeepFact]) -> None:
    """What is not where it was seen is the watcher's to take back (L20)."""
    if not vanished:
        return
    with transaction(engine) as connection:
        for fact in vanished:
            log.warning(
                "deep_fact_not_found",
                chain_id=chain.id,
                payment_id=str(fact.payment_id),
                transaction_hash=fact.transaction_hash,
                block_hash=fact.block_hash,
            )
            if fact.log_index == BALANCE:
                continue  # there is nothing to look at; the watcher's reconciliation takes it back
            request_look(
                connection,
                chain.id,
                fact.transaction_hash,
                requested_by="confirmations",
                payment_id=fact.payment_id,
            )


def _batches(facts: Sequence[DeepFact], failed: Collection[UUID]) -> Iterator[list[DeepFact]]:
    """Whole payments together, each one's transfers oldest first; a payment that failed before is judged alone."""
    batch: list[DeepFact] = []
    payments: set[UUID] = set()
    order = sorted(
        facts, key=lambda fact: (fact.payment_id in failed, fact.payment_id, fact.block_number, fact.log_index)
    )
    for fact in order:
        is_new = fact.payment_id not in payments
        is_full = len(payments) == BATCH_PAYMENTS or fact.payment_id in failed
        if batch and (len(batch) == FACTS_MAXIMUM or (is_new and is_full)):
            yield batch
            batch, payments = [], set()
        batch.append(fact)
        payments.add(fact.payment_id)
    if batch:
        yield batch


def _judge_batch(engine: Engine, batch: Sequence[DeepFact], seen: Mapping[UUID, Seen]) -> int:
    """One transaction. If it fails, its halves are tried, so that a payment that fails ends alone and stops no other."""
    payments = sorted({fact.payment_id for fact in batch})
    for attempt in attempts():
        try:
            with transaction(engine) as connection:
                judgements = judge(connection, batch[0].chain_id, {fact.id: seen[fact.id] for fact in batch})
                _resolve(connection, {judgement.fact.payment_id for judgement in judgements})
        except _PAYMENT_FAILURES as error:
            # A dispute that opened between the look and the post: look once more, it goes to disputed then.
            again = isinstance(error, DisputeOpen) or is_retryable(error)
            if again and attempt < max(attempts()):
                continue
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            if len(payments) == 1:
                _give_to_operator(engine, payments[0], error)
                return 0
            break
        for judgement in judgements:
            _say(judgement)
        return len(judgements)
    first = {*payments[: len(payments) // 2]}
    return sum(
        _judge_batch(engine, [fact for fact in batch if (fact.payment_id in first) is half], seen)
        for half in (True, False)
    )


def _say(judgement: Judgement) -> None:
    log.info(
        "transfer_judged",
        payment_id=str(judgement.fact.payment_id),
        fact_id=str(judgement.fact.id),
        held=f"{judgement.share:f}",
        suspense=f"{judgement.rest:f}",
        reason=judgement.rest_reason if judgement.rest > 0 else None,
        threshold=judgement.threshold.blocks,
        head_number=judgement.seen.head.number,
    )


def _failed_before(connection: Connection, payment_ids: Collection[UUID]) -> set[UUID]:
    rows = connection.execute(
        text(
            "SELECT payment_id FROM fleet.dead_work WHERE queue = :queue AND subject_kind = 'payment' "
            "AND subject_id = ANY(:ids) AND resolved_at IS NULL"
        ),
        {"queue": QUEUE, "ids": [str(payment_id) for payment_id in payment_ids]},
    )
    return {*rows.scalars()}


def _resolve(connection: Connection, payment_ids: Collection[UUID]) -> None:
    connection.execute(
        text(
            """
            UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue
            WHERE queue = :queue AND subject_kind = 'payment' AND subject_id = ANY(:ids) AND resolved_at IS NULL
            """
        ),
        {"queue": QUEUE, "ids": [str(payment_id) for payment_id in payment_ids]},
    )


def _resolve_what_waits_no_more(connection: Connection) -> None:
    """A reorganisation may take back what could not be held: then nothing is left for an operator to do."""
    connection.execute(
        text(
            """
            UPDATE fleet.dead_work d SET resolved_at = clock_timestamp(), resolved_by = :queue
            WHERE d.queue = :queue AND d.subject_kind = 'payment' AND d.resolved_at IS NULL AND NOT EXISTS (
                SELECT FROM fleet.chain_facts f
                WHERE f.payment_id = d.payment_id AND f.live AND f.judged_at IS NULL AND f.direction = 'inbound')
            """
        ),
        {"queue": QUEUE},
    )


def _give_to_operator(engine: Engine, payment_id: UUID, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    log.error("hold_failed", payment_id=str(payment_id), reason=reason)
    with transaction(engine) as connection:
        _show(
            connection,
            payment_id,
            f"its transfers are deep enough but cannot be held: {reason}",
            "repair what the reason names; it is tried again at every new block",
        )


def _show_doubtful(engine: Engine, nodes: ChainNodes, weighed: _Weighed, answered: int) -> None:
    """What no quorum shows waits, where an operator sees it; it is tried again at every new block."""
    doubtful = [
        (
            fact,
            f"quorum: {answered} nodes answered, fewer than {nodes.quorum} agree on its receipt in block {fact.block_hash}",
        )
        for fact in weighed.undecided
    ] + [
        (
            fact,
            "the receipt that the nodes agree on does not carry this transfer: whoever showed it to the watcher erred",
        )
        for fact in weighed.unfounded
    ]
    if not doubtful:
        return
    with transaction(engine) as connection:
        for fact, reason in doubtful:
            log.warning(
                "hold_waits",
                chain_id=fact.chain_id,
                payment_id=str(fact.payment_id),
                transaction_hash=fact.transaction_hash,
                reason=reason,
            )
            _show(
                connection,
                fact.payment_id,
                f"transaction {fact.transaction_hash}: {reason}",
                "compare the chain's nodes, take out the one that is wrong; it is tried again at every new block",
            )


def _show(connection: Connection, payment_id: UUID, reason: str, unblocks: str) -> None:
    bury(
        connection,
        queue=QUEUE,
        subject_kind="payment",
        subject_id=payment_id,
        payment_id=payment_id,
        reason=reason,
        unblocks=unblocks,
        attempts=1,
    )
