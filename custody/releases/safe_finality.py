"""Ending a Safe's instructions: only an execution that spent the Safe's nonce, at depth, ends one (R1, R16, L19).

What was executed is known by its hash in the Safe's own logs, whoever sent it: our payer, or somebody who saw our
transaction and was faster. A payout is booked once. An execution that reverts spends no nonce of a Safe, so its
signatures live on and it is tried again.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from sqlalchemy import Connection, Engine

from custody.chain import effective_threshold
from custody.chain.nodes import ChainNodes, Mined
from custody.chain.safe_logs import Execution
from custody.ledger import LedgerRefusal
from custody.payments import TransitionRefused
from custody.releases import rows
from custody.releases.booking import book_failed, book_paid, pause_chain
from custody.releases.outcome import Paid, Unclear
from custody.releases.requests import why_cancelled
from custody.releases.rows import Instruction
from custody.releases.safe_lanes import settle_executions
from custody.releases.safe_outcome import judge_execution
from custody.safe.history import HistoryTooLong, executed_since, nonce_at
from custody.settings.thresholds import newest_threshold
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

_OPEN: Final = (
    "i.chain_id = :chain AND i.unsigned_kind = 'safe_transaction' "
    "AND i.state IN ('handed_out', 'signed', 'broadcast', 'cancelling')"
)


def end_safe_ones(engine: Engine, nodes: ChainNodes, limit: int) -> int:
    """End the chain's Safe instructions whose nonce a deep enough execution has spent; how many ended, fees too.

    Raises ChainUnavailable below the quorum.
    """
    with transaction(engine) as connection:
        newest = newest_threshold(connection, nodes.chain.id)
        threshold = effective_threshold(nodes.chain.id, None if newest is None else newest.value_blocks)
        waiting = _waiting(connection, nodes.chain.id, limit)
    ended = 0
    for safe in sorted({each.treasury for each in waiting}):
        ended += _end_of(engine, nodes, safe, [each for each in waiting if each.treasury == safe], threshold)
    return ended + settle_executions(engine, nodes, threshold, limit)


def _waiting(connection: Connection, chain_id: int, limit: int) -> list[Instruction]:
    return rows.select(connection, _OPEN, {"chain": chain_id, "limit": limit}, suffix="ORDER BY i.nonce LIMIT :limit")


def _end_of(engine: Engine, nodes: ChainNodes, safe: str, waiting: Sequence[Instruction], threshold: int) -> int:
    head = nodes.common_height()
    deep = max(0, head - threshold + 1)
    spent = nonce_at(nodes, safe, deep)
    doubtful = [each for each in waiting if each.nonce is not None and each.nonce < spent]
    if not doubtful:
        return 0
    nodes.require_identity()  # what ends an instruction is read from this very chain (R17)
    start = min((each.safe_block or 0, each.safe_block_nonce or 0) for each in doubtful)
    try:
        history = executed_since(nodes, safe, first=start[0] + 1, last=deep)
    except HistoryTooLong as error:
        return _say_to_all(engine, doubtful, f"safe_history_too_long: {error}")
    if len(history) != spent - start[1]:
        # A log that is missing might be our own payout's: voiding it now could pay it twice.
        return _say_to_all(
            engine,
            doubtful,
            f"safe_history_incomplete: the Safe spent {spent - start[1]} nonces since block {start[0]} and the nodes show "
            f"{len(history)} executions; compare the chain's nodes if this stays.",
        )
    by_hash = {each.tx_hash: each for each in history}
    mined = nodes.mined(sorted({by_hash[each].log.transaction_hash for each in by_hash if _is_one_of(each, doubtful)}))
    return sum(_end(engine, nodes, each, by_hash, mined, threshold) for each in doubtful)


def _is_one_of(tx_hash: bytes, waiting: Sequence[Instruction]) -> bool:
    return any(tx_hash == each.signing_hash for each in waiting)


def _end(
    engine: Engine,
    nodes: ChainNodes,
    item: Instruction,
    by_hash: Mapping[bytes, Execution],
    mined: Mapping[str, Mined],
    threshold: int,
) -> int:
    execution = by_hash.get(item.signing_hash or b"")
    if execution is None and (rejected := by_hash.get(item.rejection_hash or b"")) is not None:
        return _end_rejected(engine, item, rejected)
    if execution is None:
        return _end_foreign(engine, nodes, item)
    found = mined.get(execution.log.transaction_hash)
    if found is None or found.depth < threshold:
        return 0
    return _end_executed(engine, nodes, item, found, threshold)


def _end_executed(engine: Engine, nodes: ChainNodes, item: Instruction, found: Mined, threshold: int) -> int:
    receipt = found.receipt
    outcome = judge_execution(item, receipt)
    evidence = {
        "threshold": threshold,
        "depth": found.depth,
        "head_number": found.head_number,
        "block_number": receipt.block_number,
        "block_hash": receipt.block_hash,
        "transaction_hash": receipt.transaction_hash,
        "safe_nonce": item.nonce,
        "sender": receipt.sender,
    }
    try:
        with transaction(engine) as connection:
            instruction = rows.lock(connection, item.id)
            if instruction.state != item.state:
                return 0
            if outcome is None or isinstance(outcome, Unclear):
                sentence = outcome.sentence if outcome else "a log says it was executed, and its receipt does not."
                pause_chain(connection, nodes.chain.id, f"release {instruction.id}: {sentence}")
                _say_once(connection, instruction, f"execution_unclear: {sentence}")
                return 0
            if isinstance(outcome, Paid):
                book_paid(connection, instruction, None, receipt, outcome, evidence)
            else:
                book_failed(connection, instruction, None, None, outcome.reason, evidence)
    except (LedgerRefusal, TransitionRefused) as error:
        with transaction(engine) as connection:
            _say_once(connection, rows.lock(connection, item.id), f"books_refused: {error}")
        return 0
    log.info(
        "release_ended",
        payment_id=item.named,
        instruction_id=str(item.id),
        transaction_hash=receipt.transaction_hash,
        paid=isinstance(outcome, Paid),
    )
    return 1


def _end_rejected(engine: Engine, item: Instruction, rejection: Execution) -> int:
    """Its owners spent the nonce on nothing (R1): the payout can never be executed, and its promise is given back."""
    with transaction(engine) as connection:
        instruction = rows.lock(connection, item.id)
        if instruction.state != item.state:
            return 0
        if instruction.state != "cancelling":
            rows.move(connection, instruction, "cancelling")
            instruction = rows.lock(connection, item.id)
        reason = (
            f"rejected: nonce {item.nonce} of the Safe was spent by its rejection in {rejection.log.transaction_hash}; "
            f"{why_cancelled(connection, item.id)}"
        )
        evidence = {"safe_nonce": item.nonce, "transaction_hash": rejection.log.transaction_hash}
        book_failed(connection, instruction, None, None, reason, evidence, ended="cancelled")
    log.info("release_cancelled", instruction_id=str(item.id), safe_nonce=item.nonce)
    return 1


def _end_foreign(engine: Engine, nodes: ChainNodes, item: Instruction) -> int:
    """L19: the Safe executed something else on this nonce, and every execution since is known: ours can never be."""
    reason = f"nonce_taken: nonce {item.nonce} of the Safe {item.treasury} was spent by a transaction that is not ours"
    with transaction(engine) as connection:
        instruction = rows.lock(connection, item.id)
        if instruction.state != item.state:
            return 0
        pause_chain(connection, nodes.chain.id, reason)
        book_failed(connection, instruction, None, None, reason, {"safe_nonce": item.nonce})
    log.error("release_nonce_taken", instruction_id=str(item.id), safe_nonce=item.nonce)
    return 1


def _say_to_all(engine: Engine, waiting: Sequence[Instruction], reason: str) -> int:
    with transaction(engine) as connection:
        for each in waiting:
            _say_once(connection, rows.lock(connection, each.id), reason)
    return 0


def _say_once(connection: Connection, instruction: Instruction, reason: str) -> None:
    if instruction.held_reason != reason[: rows.REASON_CHARACTERS]:
        rows.hold(connection, instruction, reason)
        log.error("release_needs_people", instruction_id=str(instruction.id), reason=reason)
