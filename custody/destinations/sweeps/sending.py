"""A deposit address's own transfer, from a stored intent to the chain (L15): sign, store bytes and hash, then send.

What a block does not take is sent again as it is: an address has what a payer gave it, and cannot bid more. A drain of
native coin can, out of what it brings (drain_outbidding).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from eth_utils.crypto import keccak
from sqlalchemy import text

from custody.chain import (
    AlreadyKnown,
    InsufficientFunds,
    NonceTooLow,
    SendOutcomeUnknown,
    SendRefused,
)
from custody.chain.lanes import LaneTransaction, mark_broadcast, store_signed, transactions_of
from custody.destinations.sweeps.jobs import QUEUE, SweepJob
from custody.destinations.sweeps.strategy import SweepRound
from custody.store.work import bury

log = structlog.get_logger(__name__)

REBROADCAST_AFTER_BLOCKS: Final = 5  # a node may have dropped it; sending the same bytes again costs nothing

Sign = Callable[[SweepJob, LaneTransaction], bytes | None]
"""Makes the raw transaction of an intent, or None while gas is too dear. Reads the chain; outside transactions."""


def reload(work: SweepRound, transaction: LaneTransaction) -> LaneTransaction:
    """The transaction's row as it is now."""
    rows = work.apply(lambda connection: transactions_of(connection, transaction.subject_id))
    return next(row for row in rows if row.id == transaction.id)


def ensure_signed(work: SweepRound, job: SweepJob, transaction: LaneTransaction, sign: Sign) -> LaneTransaction:
    """Give an intent its bytes. If another worker did so meanwhile, its bytes are the ones that count."""
    if transaction.state != "intent":
        return transaction
    raw = sign(job, transaction)
    if raw is None:
        return transaction
    transaction_hash = "0x" + keccak(raw).hex()
    call = transaction.recipient, transaction.data
    work.apply(lambda connection: store_signed(connection, transaction.id, raw, transaction_hash, call=call))
    return reload(work, transaction)


def broadcast(work: SweepRound, job: SweepJob, transaction: LaneTransaction, *, head: int | None = None) -> None:
    """Send the stored bytes once more; the job's reason says how the node took them. ``head``: the newest block."""
    assert transaction.signed_bytes is not None
    try:
        work.client.send_raw(transaction.signed_bytes)
    except AlreadyKnown:
        pass
    except NonceTooLow:
        # Mined meanwhile, or somebody else used the nonce; the receipt tells which.
        if _nonce_is_anothers(work, transaction):
            _report_taken_nonce(work, job, transaction)
            return
    except SendOutcomeUnknown as error:
        work.wait(job, f"send_outcome_unknown: {error.reason}")
        return
    except InsufficientFunds as error:
        work.wait(job, f"sender_cannot_pay: {transaction.sender}: {error.reason}")
        return
    except SendRefused as error:
        work.wait(job, f"{type(error).__name__}: {error.reason}")
        return
    first = transaction.state == "signed"
    work.apply(lambda connection: mark_broadcast(connection, transaction.id, head=head))
    if first:
        work.step()
        log.info(
            "sweep_transaction_sent",
            job=str(job.id),
            purpose=transaction.purpose,
            transaction_hash=transaction.transaction_hash,
        )


def push(
    work: SweepRound,
    job: SweepJob,
    transaction: LaneTransaction,
    sign: Sign,
    stale_before: datetime | None,
    *,
    head: int | None = None,
) -> None:
    """Bring a transaction without receipt one step further: sign it, send it, or send it again when it is old.

    ``head``: the newest block, kept as the one at which a node first took it.
    """
    if transaction.state == "broadcast" and not _is_stale(work, transaction, stale_before):
        work.reasons.setdefault(job.id, f"{transaction.purpose}_waits_for_block")
        return
    signed = ensure_signed(work, job, transaction, sign)
    if signed.state == "intent":
        return
    work.reasons.setdefault(job.id, f"{transaction.purpose}_waits_for_block")
    broadcast(work, job, signed, head=head)


def _is_stale(work: SweepRound, transaction: LaneTransaction, before: datetime | None) -> bool:
    if before is None:
        return False
    sent = work.apply(
        lambda connection: connection.execute(
            text("SELECT broadcast_at FROM fleet.chain_transactions WHERE id = :id"), {"id": transaction.id}
        ).scalar_one()
    )
    return sent is None or sent < before


def _nonce_is_anothers(work: SweepRound, transaction: LaneTransaction) -> bool:
    assert transaction.transaction_hash is not None
    is_used = work.client.nonce(transaction.sender) > transaction.nonce
    return is_used and work.client.receipt(transaction.transaction_hash) is None


def _report_taken_nonce(work: SweepRound, job: SweepJob, transaction: LaneTransaction) -> None:
    reason = f"nonce_taken: another transaction used nonce {transaction.nonce} of {transaction.sender}"
    work.wait(job, reason)
    work.apply(
        lambda connection: bury(
            connection,
            queue=QUEUE,
            subject_kind="chain_transaction",
            subject_id=transaction.id,
            reason=reason,
            unblocks="somebody else holds this key: stop sweeps, move the coins, change the key",
            attempts=1,
        )
    )
    log.error("sweep_nonce_taken", sender=transaction.sender, nonce=transaction.nonce)
