"""What became of a batch, booked once it is deep: one transaction of the database for one of the chain (L6, L11).

Each destination is judged by its own logs. One whose transfer is missing is looked for elsewhere, and else fails alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain import NATIVE, ChainUnavailable, MalformedLog, Receipt, ReceiptsAndHeaders
from custody.destinations.sweeps import batches, finality
from custody.destinations.sweeps.batch_method import BatchMethod
from custody.destinations.sweeps.batches import Batch, Item
from custody.destinations.sweeps.booked import Share, facts_at, split
from custody.destinations.sweeps.finality import Outgoing
from custody.destinations.sweeps.gas_shares import equal_weights
from custody.destinations.sweeps.house_costs import Costs, Mined, book_costs
from custody.destinations.sweeps.jobs import QUEUE, SweepJob
from custody.destinations.sweeps.settling import evidence_of, why_not_deep
from custody.destinations.sweeps.strategy import SweepRound
from custody.ledger import LedgerRefusal
from custody.store.outbox import ring
from custody.store.work import bury

LOOK_BACK_BLOCKS: Final = 500  # of one question for logs: what the strictest large providers allow
LOOK_BACK_MAXIMUM: Final = 20  # questions: a signature that somebody else used was not in the world for long


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a job's logs say. ``reason`` None: it was swept; ``is_late``: its signature ended before the block."""

    job: SweepJob
    transfers: Sequence[Outgoing]
    reason: str | None = None
    is_late: bool = False


def settle_batch(work: SweepRound, method: BatchMethod, batch: Batch, mined: Mined, seen: ReceiptsAndHeaders) -> None:
    """Book a batch that is deep; its jobs' reasons say what it waits for until then."""
    waits = why_not_deep(work, [mined.receipt], seen)
    if waits is not None:
        for job in batch.jobs:
            work.wait(job, waits)
        return
    costs = Costs([mined], {"sweep_batch": str(batch.id)})
    if not mined.receipt.succeeded:
        work.apply(lambda connection: _book_reverted(connection, work, batch, costs))
        work.step()
        return
    outcomes: list[_Outcome] = []
    for job, item in zip(batch.jobs, batch.items, strict=True):
        outcome = _outcome(work, method, job, item, mined.receipt, seen)
        if isinstance(outcome, str):
            # The sweep is elsewhere and not deep yet: the whole batch waits for it.
            for each in batch.jobs:
                work.wait(each, outcome)
            return
        outcomes.append(outcome)
    held = _held_after(work, batch, mined.receipt, seen)
    work.apply(lambda connection: _book(connection, work, batch, outcomes, costs, held, seen))
    work.step()


def _outcome(
    work: SweepRound, method: BatchMethod, job: SweepJob, item: Item, receipt: Receipt, seen: ReceiptsAndHeaders
) -> _Outcome | str:
    try:
        transfers = finality.outgoing(receipt, job.token, job.address)
    except MalformedLog as error:
        return _Outcome(job, (), f"malformed_transfer_log: {error}")
    if method.accepts(job, transfers):
        return _Outcome(job, transfers)
    if not transfers and item.authorization_nonce is not None:
        elsewhere = _elsewhere(work, job, receipt.block_number)
        waits = why_not_deep(work, [found for found, _ in elsewhere], seen)
        if elsewhere and waits is not None:
            return waits
        moved = [each for _, out in elsewhere for each in out]
        if method.accepts(job, moved):
            return _Outcome(job, moved)
        header = seen.headers.get(receipt.block_number)
        if not moved and header is not None and header.timestamp >= (item.valid_before or 0):
            return _Outcome(job, (), "signature_ended: no block took it in time", is_late=True)
        transfers = moved
    found = ", ".join(f"{each.log.amount} to {each.log.recipient}" for each in transfers) or "none"
    return _Outcome(
        job, transfers, f"transfer_log_differs: expected {job.amount_units} to {job.treasury}, found {found}"
    )


def _elsewhere(work: SweepRound, job: SweepJob, block: int) -> list[tuple[Receipt, list[Outgoing]]]:
    """Transactions of others that used the destination's signature: transfers to the treasury that no fact has."""
    oldest = min((fact.block_number for fact in _facts(work, job)), default=block)
    hashes: list[str] = []
    last = block
    for _ in range(LOOK_BACK_MAXIMUM):
        first = max(oldest, last - LOOK_BACK_BLOCKS + 1, 0)
        logs = work.client.transfers_to([job.token], [job.treasury], first, last)
        hashes += [each.transaction_hash for each in logs if each.sender == job.address]
        last = first - 1
        if last < oldest:
            break
    known = work.apply(
        lambda connection: set(
            connection.execute(
                text(
                    "SELECT transaction_hash FROM fleet.chain_facts WHERE destination_id = :id AND direction = 'sweep' "
                    "AND transaction_hash = ANY(:hashes)"
                ),
                {"id": job.destination_id, "hashes": hashes},
            ).scalars()
        )
    )
    found = work.client.receipts_and_headers([each for each in dict.fromkeys(hashes) if each not in known])
    receipts = [receipt for each in found.receipts if (receipt := found.canonical(each)) is not None]
    return [(receipt, finality.outgoing(receipt, job.token, job.address)) for receipt in receipts]


def _book(
    connection: Connection,
    work: SweepRound,
    batch: Batch,
    outcomes: Sequence[_Outcome],
    costs: Costs,
    held: tuple[Mapping[str, int], int],
    seen: ReceiptsAndHeaders,
) -> None:
    batches.lock_all(connection, batch)
    finality.lock_destinations(connection, batch.jobs)
    evidence = {**evidence_of(work, seen), "sweep_batch": str(batch.id)}
    balances, held_at = held
    weights: dict[UUID, Fraction] = defaultdict(Fraction)
    is_over = True
    for outcome in outcomes:
        job = outcome.job
        try:
            with connection.begin_nested():
                if outcome.is_late:
                    moved = {share.payment_id: share.units for share in _concerned(connection, work, job)}
                    batches.give_back_one(connection, job, outcome.reason or "")
                elif outcome.reason is None:
                    moved = finality.end_swept(
                        connection,
                        job,
                        outcome.transfers,
                        held_after_units=balances[job.address],
                        held_at_block=held_at,
                        evidence=evidence,
                    )
                else:
                    moved = finality.end_failed(connection, job, outcome.transfers, outcome.reason, evidence=evidence)
        except LedgerRefusal as error:
            # Its coins moved and the books refuse to say so: it stays open and is tried again; the others are booked.
            is_over = False
            reason = f"{type(error).__name__}: {error}"
            work.wait(job, reason)
            bury(
                connection,
                queue=QUEUE,
                subject_kind="sweep_job",
                subject_id=job.id,
                reason=f"{job.address}: {reason}",
                unblocks="correct what the reason names; the job is tried again in each round",
                attempts=job.attempts + 1,
            )
            continue
        for payment, part in equal_weights(moved).items():
            weights[payment] += part
    if is_over:
        batches.end(connection, batch.id, "settled")
    ring(connection, "releases")
    book_costs(connection, costs, weights)


def _book_reverted(connection: Connection, work: SweepRound, batch: Batch, costs: Costs) -> None:
    """The whole transaction reverted: nobody's fault alone. The gas is booked, and smaller batches find whose it is."""
    batches.lock_all(connection, batch)
    finality.lock_destinations(connection, batch.jobs)
    reason = "batch_reverted: the transaction failed as a whole"
    weights: dict[UUID, Fraction] = defaultdict(Fraction)
    for job in batch.jobs:
        for payment, part in equal_weights(
            {share.payment_id: share.units for share in _concerned(connection, work, job)}
        ).items():
            weights[payment] += part
    if len(batch.jobs) == 1:
        finality.end_failed(connection, batch.jobs[0], (), reason, evidence={})
        batches.end(connection, batch.id, "settled", reason)
    else:
        batches.dissolve(connection, batch, reason, count=True)
    ring(connection, "releases")
    book_costs(connection, costs, weights)


def _concerned(connection: Connection, work: SweepRound, job: SweepJob) -> list[Share]:
    token = work.chain.token(job.token)
    assert token is not None
    facts = facts_at(
        connection,
        destination_id=job.destination_id,
        chain_id=job.chain_id,
        token=job.token,
        address=job.address,
        decimals=token.decimals,
    )
    return split(facts, job.amount_units)[0]


def _facts(work: SweepRound, job: SweepJob) -> list[finality.BookedFact]:
    token = work.chain.token(job.token)
    assert token is not None
    return work.apply(
        lambda connection: facts_at(
            connection,
            destination_id=job.destination_id,
            chain_id=job.chain_id,
            token=job.token,
            address=job.address,
            decimals=token.decimals,
        )
    )


def _held_after(
    work: SweepRound, batch: Batch, receipt: Receipt, seen: ReceiptsAndHeaders
) -> tuple[dict[str, int], int]:
    """What each address holds after the batch's block, smallest unit; after the newest where a node forgot that one."""
    if batch.token == NATIVE:
        return _native_held_after(work, batch, receipt, seen)
    pairs = [(batch.token, job.address) for job in batch.jobs]
    try:
        found, at = work.client.token_balances(pairs, receipt.block_hash), receipt.block_number
    except ChainUnavailable:
        found, at = work.client.token_balances(pairs, seen.head.hash), seen.head.number
    return {address: units for (_, address), units in found.items()}, at


def _native_held_after(
    work: SweepRound, batch: Batch, receipt: Receipt, seen: ReceiptsAndHeaders
) -> tuple[dict[str, int], int]:
    addresses = [job.address for job in batch.jobs]
    try:
        return {each: work.client.balance(each, receipt.block_number) for each in addresses}, receipt.block_number
    except ChainUnavailable:  # full nodes keep the state of 128 blocks
        return {each: work.client.balance(each) for each in addresses}, seen.head.number
