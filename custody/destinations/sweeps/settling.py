"""What becomes of a job's mined transactions: booked once deep, by their logs, never by their status (L13)."""

from collections.abc import Sequence
from typing import Any

from custody.chain import ChainUnavailable, MalformedLog, ReceiptsAndHeaders
from custody.chain.depth import confirmations
from custody.destinations.sweeps import finality
from custody.destinations.sweeps.finality import Mined, Outgoing
from custody.destinations.sweeps.jobs import LeaseLost, SweepJob
from custody.destinations.sweeps.strategy import SweepRound


def _is_deep(work: SweepRound, mined: Sequence[Mined], seen: ReceiptsAndHeaders) -> bool:
    return all(confirmations(seen.head.number, item.receipt.block_number) >= work.depth.threshold for item in mined)


def _evidence(work: SweepRound, seen: ReceiptsAndHeaders) -> dict[str, Any]:
    return {
        "threshold": work.depth.threshold,
        "history_id": None if work.depth.history_id is None else str(work.depth.history_id),
        "head_number": seen.head.number,
        "head_hash": seen.head.hash,
    }


def settle(work: SweepRound, job: SweepJob, mined: Sequence[Mined], seen: ReceiptsAndHeaders) -> None:
    """Book a transfer that is deep: by its logs, never by its status."""
    if not _is_deep(work, mined, seen):
        work.wait(job, "sweep_not_deep")
        return
    receipt = next(item.receipt for item in mined if item.transaction.purpose == "sweep")
    if work.cursor_number is None or work.cursor_number < receipt.block_number:
        work.wait(job, "watcher_is_behind")
        return
    try:
        transfers = finality.outgoing(receipt, job.token, job.address)
    except MalformedLog as error:
        fail(work, job, mined, seen, f"malformed_transfer_log: {error}")
        return
    if not finality.exact_transfer(transfers, job):
        found = ", ".join(f"{item.log.amount} to {item.log.recipient}" for item in transfers) or "none"
        reason = f"transfer_log_differs: expected {job.amount_units} to {job.treasury}, found {found}"
        fail(work, job, mined, seen, reason, transfers)
        return
    held_after, held_at = _held_after(work, job, receipt.block_number, seen)
    work.apply(
        lambda connection: finality.book_sweep(
            connection,
            job,
            mined,
            transfers,
            held_after_units=held_after,
            held_at_block=held_at,
            house_book=work.house_book,
            gas_payer=work.signer.gas_payer,
            evidence=_evidence(work, seen),
        )
    )
    work.step()


def _held_after(work: SweepRound, job: SweepJob, block: int, seen: ReceiptsAndHeaders) -> tuple[int, int]:
    """What the address holds after the sweep, in smallest units, and the block it was read at.

    At the sweep's own block; a node that keeps no state so old (full nodes: 128 blocks, fewer than most chains'
    thresholds) is asked for the newest block's instead.
    """
    try:
        return work.client.token_balance(job.token, job.address, block), block
    except ChainUnavailable:
        return work.client.token_balance(job.token, job.address), seen.head.number


def fail(
    work: SweepRound,
    job: SweepJob,
    mined: Sequence[Mined],
    seen: ReceiptsAndHeaders,
    reason: str,
    transfers: Sequence[Outgoing] = (),
) -> None:
    """Fail a job once everything it sent is deep, so that its gas is booked with it."""
    if not _is_deep(work, mined, seen):
        work.wait(job, f"will_fail: {reason}")
        return
    try:
        work.apply(
            lambda connection: finality.book_failure(
                connection,
                job,
                mined,
                transfers,
                reason,
                house_book=work.house_book,
                gas_payer=work.signer.gas_payer,
                evidence=_evidence(work, seen),
            )
        )
    except LeaseLost:
        return
    work.step()
