"""What becomes of a job's mined transactions: booked once deep, by their logs, never by their status (L13)."""

from collections.abc import Sequence
from typing import Any

from custody.chain import ChainUnavailable, MalformedLog, Receipt, ReceiptsAndHeaders
from custody.chain.depth import confirmations
from custody.chain.scanned_blocks import not_agreed
from custody.destinations.sweeps import finality
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.house_costs import Costs, Mined
from custody.destinations.sweeps.jobs import LeaseLost, SweepJob
from custody.destinations.sweeps.strategy import SweepRound


def why_not_final(work: SweepRound, mined: Sequence[Mined], seen: ReceiptsAndHeaders) -> str | None:
    """Why nothing is booked of these receipts yet: one node showed them, depth and block are a quorum's to say (L13)."""
    return why_not_deep(work, [item.receipt for item in mined], seen)


def why_not_deep(work: SweepRound, receipts: Sequence[Receipt], seen: ReceiptsAndHeaders) -> str | None:
    """The same of any receipts."""
    head = min(seen.head.number, work.agreed_number or 0)
    if any(confirmations(seen.head.number, each.block_number) < work.depth.threshold for each in receipts):
        return "sweep_not_deep"
    if any(confirmations(head, each.block_number) < work.depth.threshold for each in receipts):
        return "watcher_is_behind: a quorum of nodes has not shown it that depth yet"
    blocks = {each.block_number: each.block_hash for each in receipts}
    if work.apply(lambda connection: not_agreed(connection, work.chain.id, blocks)):
        return "quorum: the node's block is not the one that the watcher's nodes agree on"
    return None


def evidence_of(work: SweepRound, seen: ReceiptsAndHeaders) -> dict[str, Any]:
    """What an entry says of the depth it was judged at."""
    return {
        "threshold": work.depth.threshold,
        "history_id": None if work.depth.history_id is None else str(work.depth.history_id),
        "head_number": seen.head.number,
        "head_hash": seen.head.hash,
    }


def settle(work: SweepRound, job: SweepJob, mined: Sequence[Mined], seen: ReceiptsAndHeaders) -> None:
    """Book a transfer that is deep: by its logs, never by its status."""
    waits = why_not_final(work, mined, seen)
    if waits is not None:
        work.wait(job, waits)
        return
    receipt = next(item.receipt for item in mined if item.transaction.purpose == "sweep")
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
            transfers,
            Costs(mined, {"sweep_job": str(job.id)}),
            held_after_units=held_after,
            held_at_block=held_at,
            evidence=evidence_of(work, seen),
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
    if why_not_final(work, mined, seen) is not None:
        work.wait(job, f"will_fail: {reason}")
        return
    try:
        work.apply(
            lambda connection: finality.book_failure(
                connection,
                job,
                transfers,
                reason,
                Costs(mined, {"sweep_job": str(job.id)}),
                evidence=evidence_of(work, seen),
            )
        )
    except LeaseLost:
        return
    work.step()
