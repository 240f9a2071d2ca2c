"""Booking what a sweep really did, once its blocks are deep (L2, L6, L11): one transaction, all or nothing."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.chain import NATIVE, Receipt, TransferLog, to_amount
from custody.chain.logs import NATIVE_SWEPT_TOPIC, TRANSFER_TOPIC, decode_native_swept, decode_transfer
from custody.destinations.balance import show_balance
from custody.destinations.sweeps import jobs
from custody.destinations.sweeps.booked import BookedFact, facts_at, split
from custody.destinations.sweeps.gas_shares import equal_weights
from custody.destinations.sweeps.house_costs import Costs, book_costs
from custody.destinations.sweeps.jobs import SweepJob
from custody.ledger import Entry, post
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A Transfer that left the destination; ``tx_ordinal`` is its place inside its transaction (L1)."""

    log: TransferLog
    tx_ordinal: int


def outgoing(receipt: Receipt, token: str, address: str) -> list[Outgoing]:
    """Every Transfer of ``token`` out of ``address`` that the receipt's logs prove; of native coin, what our delegate said.

    A receipt's status is not looked at: it proves nothing. Raises MalformedLog.
    """
    if token == NATIVE:
        return _native_swept(receipt, address)
    found: list[Outgoing] = []
    for ordinal, entry in enumerate(receipt.logs):
        if entry.address == token and entry.event == TRANSFER_TOPIC:
            transfer = decode_transfer(entry)
            if transfer.sender == address and transfer.recipient != address and transfer.amount > 0:
                found.append(Outgoing(transfer, ordinal))
    return found


def _native_swept(receipt: Receipt, address: str) -> list[Outgoing]:
    """A forwarder's own word on its native coin: it runs nothing but our delegate, from its first block on."""
    found: list[Outgoing] = []
    for ordinal, entry in enumerate(receipt.logs):
        if entry.address == address and entry.event == NATIVE_SWEPT_TOPIC:
            treasury, wei = decode_native_swept(entry)
            moved = TransferLog(
                chain_id=entry.chain_id,
                block_number=entry.block_number,
                block_hash=entry.block_hash,
                transaction_hash=entry.transaction_hash,
                transaction_index=entry.transaction_index,
                log_index=entry.log_index,
                token=NATIVE,  # pyright: ignore[reportArgumentType]
                sender=entry.address,
                recipient=treasury,
                amount=wei,
            )
            found.append(Outgoing(moved, ordinal))
    return found


def exact_transfer(transfers: Sequence[Outgoing], job: SweepJob) -> bool:
    """Whether exactly the planned amount went to the treasury, and nothing else went anywhere."""
    return len(transfers) == 1 and (transfers[0].log.recipient, transfers[0].log.amount) == (
        job.treasury,
        job.amount_units,
    )


def book_sweep(
    connection: Connection,
    job: SweepJob,
    transfers: Sequence[Outgoing],
    costs: Costs,
    *,
    held_after_units: int,
    held_at_block: int,
    evidence: Mapping[str, Any],
) -> None:
    """Book an exact sweep and end its job.

    ``held_after_units``: what the chain says that ``token`` has at the destination after ``held_at_block``, the sweep's
    or a later one, the house's own coins left out; the destination is swept when it and the books are both at zero,
    else active again. Raises LeaseLost; a LedgerRefusal rolls everything back.
    """
    jobs.lock(connection, job)
    lock_destinations(connection, [job])
    moved = end_swept(
        connection, job, transfers, held_after_units=held_after_units, held_at_block=held_at_block, evidence=evidence
    )
    ring(connection, "releases")
    book_costs(connection, costs, equal_weights(moved))


def end_swept(
    connection: Connection,
    job: SweepJob,
    transfers: Sequence[Outgoing],
    *,
    held_after_units: int,
    held_at_block: int,
    evidence: Mapping[str, Any],
) -> dict[UUID, int]:
    """Book the transfers of a sweep and end its job, whose row is locked; return what of each payment moved.

    All but the costs, which may be those of a whole batch. Arguments as ``book_sweep``.
    """
    decimals = _decimals(connection, job)
    moved = _book_transfers(connection, job, transfers, decimals, evidence)
    facts = _facts(connection, job, decimals)
    booked_then = sum(fact.units for fact in facts if fact.block_number <= held_at_block)
    others = _other_tokens_with_coins(connection, job)
    is_empty = not facts and not others and held_after_units == 0
    if booked_then != held_after_units:
        # More on chain than booked: a deposit nobody has told us of yet; the watcher finds it. Less cannot be ours.
        log.warning(
            "destination_differs_from_books",
            address=job.address,
            booked_units=str(booked_then),
            chain_units=str(held_after_units),
            block=held_at_block,
        )
    _set_destination(connection, job, "swept" if is_empty else "active")
    jobs.move(connection, job, "swept")
    jobs.resolve(connection, job)
    log.info("sweep_booked", job=str(job.id), address=job.address, units=str(job.amount_units))
    return moved


def book_failure(
    connection: Connection,
    job: SweepJob,
    transfers: Sequence[Outgoing],
    reason: str,
    costs: Costs,
    *,
    evidence: Mapping[str, Any],
) -> None:
    """Book what a failed sweep did all the same (gas, and coins that did move), fail its job, and quarantine its
    destination alone. Raises LeaseLost.
    """
    jobs.lock(connection, job)
    lock_destinations(connection, [job])
    weights = end_failed(connection, job, transfers, reason, evidence=evidence)
    ring(connection, "releases")
    book_costs(connection, costs, equal_weights(weights))


def end_failed(
    connection: Connection,
    job: SweepJob,
    transfers: Sequence[Outgoing],
    reason: str,
    *,
    evidence: Mapping[str, Any],
) -> dict[UUID, int]:
    """``book_failure`` without the costs; return whose coins they were about, by payment."""
    decimals = _decimals(connection, job)
    concerned = {
        share.payment_id: share.units for share in split(_facts(connection, job, decimals), job.amount_units)[0]
    }
    if transfers:
        _book_transfers(connection, job, transfers, decimals, evidence)
    _set_destination(connection, job, None)
    jobs.fail(connection, job, reason)
    log.error("sweep_failed", job=str(job.id), address=job.address, reason=reason)
    return concerned


def _book_transfers(
    connection: Connection,
    job: SweepJob,
    transfers: Sequence[Outgoing],
    decimals: int,
    evidence: Mapping[str, Any],
) -> dict[UUID, int]:
    moved: dict[UUID, int] = defaultdict(int)
    for item in transfers:
        fact = _insert_fact(connection, job, item)
        to_treasury = item.log.recipient == job.treasury
        # L9: what a token keeps for itself on the way is booked from its own log.
        reason, debit = ("sweep", "treasury") if to_treasury else ("token_fee", "transfer_cost")
        shares, uncovered = split(_facts(connection, job, decimals), item.log.amount)
        if uncovered:
            log.error("sweep_exceeds_books", address=job.address, units=str(uncovered))
            connection.execute(
                text("UPDATE fleet.chain_facts SET unbooked_units = :units WHERE id = :id"),
                {"units": uncovered, "id": fact},
            )
            bury(
                connection,
                queue=jobs.QUEUE,
                subject_kind="chain_fact",
                subject_id=fact,
                reason=f"{uncovered} units of {job.token} left {job.address} that no payment's book held there",
                unblocks="its transfer is looked for and looked at by itself, and then booked; if it stays: find the deposit, "
                "fleet look CHAIN TRANSACTION, and compare: fleet ledger escrow",
                attempts=1,
            )
        for share in shares:
            moved[share.payment_id] += share.units
            post(
                connection,
                Entry(
                    book_kind="payment",
                    book_id=share.payment_id,
                    chain_id=job.chain_id,
                    token=job.token,
                    entry_type="adjustment",
                    reason=reason,
                    debit=debit,
                    credit="destination",
                    amount=to_amount(share.units, decimals),
                    key=f"fact:{fact}:{reason}:{share.payment_id}",
                    debit_address=job.treasury if to_treasury else None,
                    credit_address=job.address,
                    fact_id=fact,
                    evidence={
                        **evidence,
                        "transaction_hash": item.log.transaction_hash,
                        "log_index": item.log.log_index,
                        "block_number": item.log.block_number,
                        "block_hash": item.log.block_hash,
                    },
                ),
            )
        if to_treasury:
            _append_sweep(connection, job, item)
    return moved


def _insert_fact(connection: Connection, job: SweepJob, item: Outgoing) -> UUID:
    return connection.execute(
        text(
            """
            INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                token, sender, recipient, amount_units, direction, destination_id, judged_at)
            VALUES (:chain, :number, :block_hash, :hash, :log_index, :ordinal, :token, :sender, :recipient, :units,
                'sweep', :destination, clock_timestamp())
            RETURNING id
            """
        ),
        {
            "chain": job.chain_id,
            "number": item.log.block_number,
            "block_hash": item.log.block_hash,
            "hash": item.log.transaction_hash,
            "log_index": item.log.log_index,
            "ordinal": item.tx_ordinal,
            "token": job.token,
            "sender": item.log.sender,
            "recipient": item.log.recipient,
            "units": item.log.amount,
            "destination": job.destination_id,
        },
    ).scalar_one()


def _append_sweep(connection: Connection, job: SweepJob, item: Outgoing) -> None:
    connection.execute(
        text(
            """
            INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address,
                transaction_hash, log_index, block_number, from_address, to_address, amount)
            VALUES (:destination, :chain, :token, :hash, :log_index, :number, :sender, :recipient, :units)
            """
        ),
        {
            "destination": job.destination_id,
            "chain": job.chain_id,
            "token": job.token,
            "hash": item.log.transaction_hash,
            "log_index": item.log.log_index,
            "number": item.log.block_number,
            "sender": item.log.sender,
            "recipient": item.log.recipient,
            "units": item.log.amount,
        },
    )


def lock_destinations(connection: Connection, members: Sequence[SweepJob]) -> None:
    """Lock the jobs' destinations, by id, after the jobs (L17)."""
    connection.execute(
        text("SELECT 1 FROM public.derived_destinations WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"),
        {"ids": [job.destination_id for job in members]},
    )


def _set_destination(connection: Connection, job: SweepJob, status: str | None) -> None:
    """The balance is from the books; the totals follow from the sweeps by themselves.

    A quarantine that came while the sweep was under way stays: people lift it.
    """
    if status is not None:
        connection.execute(
            text(
                """
                UPDATE public.derived_destinations
                SET status = CAST(:status AS public.derived_destination_status), updated_at = clock_timestamp()
                WHERE id = :id AND status <> 'quarantined'
                """
            ),
            {"id": job.destination_id, "status": status},
        )
    show_balance(connection, job.destination_id)


def _facts(connection: Connection, job: SweepJob, decimals: int) -> list[BookedFact]:
    return list(
        facts_at(
            connection,
            destination_id=job.destination_id,
            chain_id=job.chain_id,
            token=job.token,
            address=job.address,
            decimals=decimals,
        )
    )


def _decimals(connection: Connection, job: SweepJob) -> int:
    return connection.execute(
        text("SELECT decimals FROM fleet.tokens WHERE chain_id = :chain AND token = :token"),
        {"chain": job.chain_id, "token": job.token},
    ).scalar_one()


def _other_tokens_with_coins(connection: Connection, job: SweepJob) -> bool:
    inbound: Mapping[str, Decimal] = {
        row.token: row.units
        for row in connection.execute(
            text(
                """
                SELECT token, sum(CASE WHEN direction = 'inbound' THEN amount_units ELSE -amount_units END) AS units
                FROM fleet.chain_facts
                WHERE destination_id = :id AND chain_id = :chain AND token <> :token AND live GROUP BY token
                """
            ),
            {"id": job.destination_id, "chain": job.chain_id, "token": job.token},
        )
    }
    return any(units > 0 for units in inbound.values())
