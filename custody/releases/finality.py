"""Ending instructions: only a canonical transaction on the nonce, at depth, ends one (R1, L13, L19).

Own and paid: the outbound fact, ``release:final``, the fee in the treasury's house book, lane, instruction,
payment and purchase request move in one transaction. Own and reverted, or the cancel: the fee and ``release:void``.
Another transaction on the nonce: ``failed(nonce_taken)``, and the chain pauses. A nonce that is spent by none of the
hashes we know is looked up on the chain: whoever holds our bytes may have sent them without telling us.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import effective_threshold
from custody.chain.lanes import LaneTransaction, transactions_of
from custody.chain.nodes import ChainNodes, Mined
from custody.chain.spender import Spender, spender_of
from custody.ledger import LedgerRefusal
from custody.payments import TransitionRefused
from custody.releases import rows
from custody.releases.booking import book_cancelled, book_failed, book_paid, pause_chain
from custody.releases.digests import digests_of
from custody.releases.outcome import Paid, Unclear, judge_receipt
from custody.releases.payout import BytesDiffer
from custody.releases.rows import Instruction
from custody.releases.signing import SubmissionRefused, take_signature, whose
from custody.settings.thresholds import newest_threshold
from custody.store.engine import transaction
from custody.trezor.transaction import Signature, SignatureError

log = structlog.get_logger(__name__)

_OPEN: Final = (
    "i.chain_id = :chain AND i.unsigned_kind = 'transaction' "
    "AND i.state IN ('handed_out', 'signed', 'broadcast', 'cancelling')"
)


@dataclass(frozen=True, slots=True)
class _Open:
    instruction: Instruction
    lane: LaneTransaction | None
    hashes: Sequence[str]
    cancels: frozenset[str]
    """Those of the hashes that are the cancel's (R1)."""


def end_deep_ones(engine: Engine, nodes: ChainNodes, limit: int) -> int:
    """End the chain's instructions whose nonce a deep enough canonical transaction has spent; how many ended.

    All are looked at with one batched request a node. Raises ChainUnavailable below the quorum.
    """
    with transaction(engine) as connection:
        newest = newest_threshold(connection, nodes.chain.id)
        threshold = effective_threshold(nodes.chain.id, None if newest is None else newest.value_blocks)
        waiting = [_open(connection, each) for each in _waiting(connection, nodes.chain.id, limit)]
    if not waiting:
        return 0
    hashes = [transaction_hash for each in waiting for transaction_hash in each.hashes]
    mined = nodes.mined(hashes) if hashes else {}
    spent = {
        treasury: _spent_below(
            nodes, treasury, [each for each in waiting if each.instruction.treasury == treasury], mined, threshold
        )
        for treasury in dict.fromkeys(each.instruction.treasury for each in waiting)
    }
    if mined or any(spent.values()):
        nodes.require_identity()  # what ends an instruction is read from this very chain (R17)
    return sum(_end(engine, nodes, each, mined, spent[each.instruction.treasury], threshold) for each in waiting)


def _waiting(connection: Connection, chain_id: int, limit: int) -> list[Instruction]:
    return rows.select(connection, _OPEN, {"chain": chain_id, "limit": limit}, suffix="ORDER BY i.nonce LIMIT :limit")


def _open(connection: Connection, instruction: Instruction) -> _Open:
    for lane in transactions_of(connection, instruction.id):
        if lane.nonce == instruction.nonce:
            known: Any = connection.execute(
                text("SELECT hashes FROM fleet.chain_transactions WHERE id = :id"), {"id": lane.id}
            ).scalar_one()
            cancels = {
                each.transaction_hash
                for each in digests_of(connection, instruction.id)
                if each.kind == "cancel" and each.transaction_hash
            }
            return _Open(instruction, lane, tuple(known), frozenset(cancels))
    return _Open(instruction, None, (), frozenset())


def _spent_below(
    nodes: ChainNodes, treasury: str, waiting: Sequence[_Open], mined: Mapping[str, Mined], threshold: int
) -> int:
    """Nonces of the treasury below this are spent by canonical transactions at depth; 0 when nothing of ours is in doubt.

    The count at an older block is asked only when a nonce is spent and has no receipt of ours, since it needs a
    node that keeps that block's state.
    """
    doubtful = [
        item.instruction.nonce
        for item in waiting
        if item.instruction.nonce is not None and not any(each in mined for each in item.hashes)
    ]
    if not doubtful:
        return 0
    if nodes.nonce(treasury) <= min(doubtful):
        return 0
    head = nodes.any(lambda client: client.head()).number
    return nodes.nonce(treasury, max(0, head - threshold + 1))


def _end(
    engine: Engine,
    nodes: ChainNodes,
    item: _Open,
    mined: Mapping[str, Mined],
    spent_below: int,
    threshold: int,
) -> int:
    own = next((mined[each] for each in item.hashes if each in mined), None)
    if own is not None:
        if own.depth < threshold:
            return 0
        return _end_own(engine, nodes, item, own, threshold)
    nonce = item.instruction.nonce
    if nonce is None or nonce >= spent_below:
        return 0
    # Asked again, after the count: the payout may have been mined between the two questions, and one node that has
    # its receipt is enough to doubt. Voiding a payout that was made would pay it twice.
    if nodes.any_has_receipt(item.hashes):
        _doubt(engine, item)
        return 0
    return _end_unknown(engine, nodes, item, nonce)


def _end_unknown(engine: Engine, nodes: ChainNodes, item: _Open, nonce: int) -> int:
    """The nonce is spent by none of the hashes we know: by one of our digests, by a foreign one, or nobody can say."""
    spender = spender_of(nodes, item.instruction.treasury, nonce)
    whose_it_is = "unclear" if spender is None else _adopt(engine, item, spender)
    if whose_it_is == "ours":
        return 1  # its hash is known now: the next round ends it by its receipt
    if spender is not None and whose_it_is == "unclear":
        return 0
    return _end_foreign(engine, nodes, item, is_known=spender is not None)


def _adopt(engine: Engine, item: _Open, spender: Spender) -> Literal["ours", "foreign", "unclear"]:
    """Take the signature of a mined transaction that is one of our digests, as if its signer had handed it in."""
    try:
        signature = Signature(spender.parity, spender.r, spender.s)
    except SignatureError:
        return "foreign"  # of another transaction type: none of ours can be
    with transaction(engine) as connection:
        instruction = rows.lock(connection, item.instruction.id)
        if instruction.state != item.instruction.state:
            return "unclear"
        digests = digests_of(connection, instruction.id)
        try:
            found = whose(instruction, digests, signature)
            if found is None:
                return "foreign"
            take_signature(connection, instruction, digests, *found, signature)
        except (BytesDiffer, SubmissionRefused) as error:
            _say_once(connection, instruction, f"stored_bytes_differ: {error}; an operator looks at it.")
            return "unclear"
    log.warning("release_sent_by_signer", instruction_id=str(instruction.id), hash=spender.transaction_hash)
    return "ours"


def _doubt(engine: Engine, item: _Open) -> None:
    with transaction(engine) as connection:
        instruction = rows.lock(connection, item.instruction.id)
        if instruction.state == item.instruction.state:
            _say_once(
                connection,
                instruction,
                "nodes_disagree: its nonce is spent and a node has its receipt, but too few nodes agree on the receipt "
                "yet; compare the chain's nodes if this stays.",
            )


def _end_own(engine: Engine, nodes: ChainNodes, item: _Open, own: Mined, threshold: int) -> int:
    is_cancel = own.receipt.transaction_hash in item.cancels
    outcome = None if is_cancel else judge_receipt(item.instruction, own.receipt)
    evidence = {
        "threshold": threshold,
        "depth": own.depth,
        "head_number": own.head_number,
        "block_number": own.receipt.block_number,
        "block_hash": own.receipt.block_hash,
        "transaction_hash": own.receipt.transaction_hash,
    }
    assert item.lane is not None
    try:
        with transaction(engine) as connection:
            instruction = rows.lock(connection, item.instruction.id)
            if instruction.state != item.instruction.state:
                return 0
            if outcome is None:
                book_cancelled(connection, instruction, item.lane, own.receipt, evidence)
            elif isinstance(outcome, Unclear):
                pause_chain(connection, nodes.chain.id, f"release {instruction.id}: {outcome.sentence}")
                _say_once(connection, instruction, f"{outcome.reason}: {outcome.sentence}")
                return 0
            elif isinstance(outcome, Paid):
                book_paid(connection, instruction, item.lane, own.receipt, outcome, evidence)
            else:
                book_failed(connection, instruction, item.lane, own.receipt, outcome.reason, evidence)
    except (LedgerRefusal, TransitionRefused) as error:
        # One instruction that the books refuse must not keep the others from their end.
        with transaction(engine) as connection:
            _say_once(connection, rows.lock(connection, item.instruction.id), f"books_refused: {error}")
        return 0
    log.info(
        "release_ended",
        payment_id=instruction.named,
        instruction_id=str(instruction.id),
        transaction_hash=own.receipt.transaction_hash,
        paid=isinstance(outcome, Paid),
    )
    return 1


def _end_foreign(engine: Engine, nodes: ChainNodes, item: _Open, *, is_known: bool) -> int:
    """L19: a transaction that is none of ours spent the nonce. ``is_known``: a quorum of nodes shows which one."""
    reason = (
        f"nonce_taken: nonce {item.instruction.nonce} of {item.instruction.treasury} was spent by a transaction that "
        "is not ours"
    )
    with transaction(engine) as connection:
        instruction = rows.lock(connection, item.instruction.id)
        if instruction.state != item.instruction.state:
            return 0
        pause_chain(connection, nodes.chain.id, reason)
        if not is_known:
            # Whoever has our bytes may have sent them, with a signature that we never saw: voiding now could pay
            # twice. That signature, or a node that keeps older state, says which it was.
            _say_once(connection, instruction, f"{reason}; if the signer sent it himself, submit its signature.")
            return 0
        book_failed(connection, instruction, item.lane, None, reason, {})
    log.error("release_nonce_taken", instruction_id=str(instruction.id), nonce=instruction.nonce)
    return 1


def _say_once(connection: Connection, instruction: Instruction, reason: str) -> None:
    """Leave the instruction open with a reason for people; it is looked at each round and said once."""
    if instruction.held_reason != reason[: rows.REASON_CHARACTERS]:
        rows.hold(connection, instruction, reason)
        log.error("release_needs_people", instruction_id=str(instruction.id), reason=reason)
