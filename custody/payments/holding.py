"""Holding: a transfer that is deep enough becomes money held in escrow (L7, L13).

The confirmations' step. Depth is judged on receipts read at that moment, not on what the watcher once saw;
the threshold is read anew for every judgement, so a change binds at once. Agreement of several nodes (L13) is
a later step's: one node a chain judges.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.cursor import read_cursor
from custody.chain.errors import ChainUnavailable
from custody.chain.looks import request_look
from custody.chain.native import BALANCE
from custody.chain.rpc import ChainClient
from custody.ledger import DisputeOpen, LedgerRefusal
from custody.payments.judging import DeepFact, binding_threshold, judge, waiting_facts
from custody.payments.transitions import TransitionRefused
from custody.settings.chains import Chain, Chains
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction
from custody.store.work import bury

log = structlog.get_logger(__name__)

QUEUE: Final = "confirmations"
_FUTURE_SECONDS: Final = 60  # a head this far ahead of our clock is as wrong as an old one
_PAYMENT_FAILURES: Final = (LedgerRefusal, TransitionRefused, LookupError, DBAPIError)


def run_once(engine: Engine, chains: Chains, clients: Mapping[int, ChainClient], limit: int) -> int:
    """Judge up to ``limit`` transfers a chain that are deep enough; return how many were split.

    ``clients``: one a chain id. A chain without one is left alone; one whose node is away or stale waits, and
    the log says so.
    """
    judged = sum(
        _judge_chain(engine, chain, clients[chain.id], limit) for chain in chains.chains if chain.id in clients
    )
    if judged:
        ring_relay(engine)
    return judged


def _judge_chain(engine: Engine, chain: Chain, client: ChainClient, limit: int) -> int:
    with transaction(engine) as connection:
        cursor = read_cursor(connection, chain.id)
        if cursor is None:
            return 0
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
            deepest=cursor.head_number - threshold.blocks + 1,
            queue=QUEUE,
            limit=limit,
        )
    if not deep:
        return 0
    if cursor.paused_reason is not None:
        log.warning("holds_wait", chain_id=chain.id, reason=f"the chain is paused: {cursor.paused_reason}")
        return 0
    forbid_inside_transaction("reading receipts")
    try:
        found = client.receipts_and_headers([fact.transaction_hash for fact in deep if fact.log_index != BALANCE])
        reconciled = {fact.block_number for fact in deep if fact.log_index == BALANCE}
        headers = client.headers(reconciled) if reconciled else {}
    except ChainUnavailable as error:
        log.warning("holds_wait", chain_id=chain.id, reason=str(error))
        return 0
    stale = why_stale(chain, found.head, int(time.time()))
    if stale is not None:
        log.warning("holds_wait", chain_id=chain.id, reason=stale)
        return 0
    standing = [fact for fact in deep if _still_stands(fact, found, headers)]
    _look_again(engine, chain, [fact for fact in deep if fact not in standing])
    standing.sort(key=lambda fact: (fact.payment_id, fact.block_number, fact.log_index))
    return sum(
        _judge_payment(engine, chain, payment_id, [fact.id for fact in group], found.head)
        for payment_id, group in groupby(standing, key=lambda fact: fact.payment_id)
    )


def why_stale(chain: Chain, head: BlockHeader, now: int) -> str | None:
    """Why a head says nothing about the present (L13), None if it may be used; ``now`` in seconds since the epoch.

    Development chains stand still legally.
    """
    if chain.is_development:
        return None
    age = now - head.timestamp
    if age > chain.max_head_age_seconds:
        return f"the newest block is {age} s old, more than {chain.max_head_age_seconds} s: the node is stuck"
    if age < -_FUTURE_SECONDS:
        return f"the newest block is {-age} s in the future: the node or this machine's clock is wrong"
    return None


def _still_stands(fact: DeepFact, found: ReceiptsAndHeaders, headers: Mapping[int, BlockHeader]) -> bool:
    if fact.log_index == BALANCE:  # L8: a block's balance told of it, no transaction
        header = headers.get(fact.block_number)
        return header is not None and header.hash == fact.block_hash
    receipt = found.canonical(fact.transaction_hash)
    return receipt is not None and receipt.block_hash == fact.block_hash


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


def _judge_payment(engine: Engine, chain: Chain, payment_id: UUID, fact_ids: Sequence[UUID], head: BlockHeader) -> int:
    """One payment, one transaction. A payment that fails is shown to an operator and stops no other."""
    for attempt in attempts():
        try:
            with transaction(engine) as connection:
                judged = judge(connection, chain.id, payment_id, fact_ids, head)
                _resolve(connection, payment_id)
            return judged
        except _PAYMENT_FAILURES as error:
            # A dispute that opened between the look and the post: look once more, it goes to disputed then.
            again = isinstance(error, DisputeOpen) or is_retryable(error)
            if again and attempt < max(attempts()):
                continue
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            _give_to_operator(engine, payment_id, error)
            return 0
    return 0


def _resolve(connection: Connection, payment_id: UUID) -> None:
    connection.execute(
        text(
            """
            UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue
            WHERE queue = :queue AND subject_kind = 'payment' AND subject_id = :id AND resolved_at IS NULL
            """
        ),
        {"queue": QUEUE, "id": str(payment_id)},
    )


def _give_to_operator(engine: Engine, payment_id: UUID, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    log.error("hold_failed", payment_id=str(payment_id), reason=reason)
    with transaction(engine) as connection:
        bury(
            connection,
            queue=QUEUE,
            subject_kind="payment",
            subject_id=payment_id,
            payment_id=payment_id,
            reason=f"its transfers are deep enough but cannot be held: {reason}",
            unblocks="repair what the reason names; it is tried again at every new block",
            attempts=1,
        )
