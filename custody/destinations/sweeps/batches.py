"""Rows of batches: many jobs, one transaction of the gas payer (L15).

A batch is formed with what each destination's key will sign, then composed and signed by keys, then given a nonce: a
crash after any of these goes on with the same. Its jobs are those that are still open; one that fails leaves it alone.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.lanes import LaneTransaction, transactions_of
from custody.destinations.sweeps import jobs
from custody.destinations.sweeps.jobs import SweepJob


@dataclass(frozen=True, slots=True)
class Item:
    """What one destination's key signs: its account nonce (EIP-7702; None: it is delegated already), or 32 random bytes
    and the moment in Unix seconds after which they are worth nothing (EIP-3009)."""

    authority_nonce: int | None = None
    authorization_nonce: bytes | None = None
    valid_before: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that is not settled: its open jobs in their order, each with its item, and its transaction if it has one."""

    id: UUID
    strategy: str
    token: str
    jobs: tuple[SweepJob, ...]
    items: tuple[Item, ...]
    transaction: LaneTransaction | None

    def without(self, job_ids: set[UUID]) -> "Batch":
        """The batch less some of its jobs."""
        kept = [(job, item) for job, item in zip(self.jobs, self.items, strict=True) if job.id not in job_ids]
        return Batch(
            self.id,
            self.strategy,
            self.token,
            tuple(job for job, _ in kept),
            tuple(item for _, item in kept),
            self.transaction,
        )


def random_nonce() -> bytes:
    """A nonce for EIP-3009: stored before anything is signed with it."""
    return secrets.token_bytes(32)


def form(connection: Connection, members: Sequence[tuple[SweepJob, Item]], method: str | None) -> UUID:
    """Make a batch of jobs that have none; their rows are locked here. ``method``: what their addresses have for life.

    Raises LeaseLost, MethodTaken.
    """
    first = members[0][0]
    for job, _ in sorted(members, key=lambda member: member[0].id):
        jobs.lock(connection, job)
    if method is not None:
        _claim_method(connection, [job for job, _ in members], method)
    batch_id: UUID = connection.execute(
        text(
            "INSERT INTO fleet.sweep_batches (chain_id, token, strategy, treasury) "
            "VALUES (:chain, :token, :strategy, :treasury) RETURNING id"
        ),
        {"chain": first.chain_id, "token": first.token, "strategy": first.strategy, "treasury": first.treasury},
    ).scalar_one()
    connection.execute(
        text(
            """
            INSERT INTO fleet.sweep_batch_items
                (batch_id, job_id, place, authority_nonce, authorization_nonce, valid_before)
            VALUES (:batch, :job, :place, :authority_nonce, :authorization_nonce, :valid_before)
            """
        ),
        [
            {
                "batch": batch_id,
                "job": job.id,
                "place": place,
                "authority_nonce": item.authority_nonce,
                "authorization_nonce": item.authorization_nonce,
                "valid_before": item.valid_before,
            }
            for place, (job, item) in enumerate(members)
        ],
    )
    connection.execute(
        text("UPDATE fleet.sweep_jobs SET batch_id = :batch, updated_at = clock_timestamp() WHERE id = ANY(:ids)"),
        {"batch": batch_id, "ids": [job.id for job, _ in members]},
    )
    return batch_id


class MethodTaken(Exception):
    """An address has another method for life. The message names it."""


def _claim_method(connection: Connection, members: Sequence[SweepJob], method: str) -> None:
    ids = [job.destination_id for job in members]
    connection.execute(
        text(
            "INSERT INTO fleet.destination_methods (destination_id, method) "
            "SELECT unnest(CAST(:ids AS uuid[])), :method ON CONFLICT DO NOTHING"
        ),
        {"ids": sorted(ids), "method": method},
    )
    other = connection.execute(
        text(
            "SELECT m.method, d.address FROM fleet.destination_methods m "
            "JOIN public.derived_destinations d ON d.id = m.destination_id "
            "WHERE m.destination_id = ANY(:ids) AND m.method <> :method LIMIT 1"
        ),
        {"ids": ids, "method": method},
    ).one_or_none()
    if other is not None:
        raise MethodTaken(f"{other.address} is swept by {other.method} for life, not by {method}")


def read(connection: Connection, batch_id: UUID) -> Batch | None:
    """The batch with its jobs that are open, whoever has leased them. None when none is open."""
    rows = connection.execute(
        text(
            """
            SELECT i.job_id, i.authority_nonce, i.authorization_nonce, i.valid_before, b.token, b.strategy
            FROM fleet.sweep_batches b JOIN fleet.sweep_batch_items i ON i.batch_id = b.id
            JOIN fleet.sweep_jobs j ON j.id = i.job_id AND j.batch_id = b.id
            WHERE b.id = :id AND j.state IN ('planned', 'funding', 'transferring') ORDER BY i.place
            """
        ),
        {"id": batch_id},
    ).all()
    if not rows:
        return None
    members = jobs.by_ids(connection, [row.job_id for row in rows])
    sent = transactions_of(connection, batch_id)
    return Batch(
        batch_id,
        rows[0].strategy,
        rows[0].token,
        tuple(members[row.job_id] for row in rows),
        tuple(
            Item(
                row.authority_nonce,
                None if row.authorization_nonce is None else bytes(row.authorization_nonce),
                row.valid_before,
            )
            for row in rows
        ),
        sent[-1] if sent else None,
    )


def lock_all(connection: Connection, batch: Batch) -> None:
    """Lock every job of the batch under this worker's lease, by id (L17). Raises LeaseLost."""
    for job in sorted(batch.jobs, key=lambda job: job.id):
        jobs.lock(connection, job)


def end(connection: Connection, batch_id: UUID, state: str, reason: str | None = None) -> None:
    """Say what became of a batch: settled, or dissolved with the reason."""
    connection.execute(
        text(
            "UPDATE fleet.sweep_batches SET state = :state, reason = :reason, ended_at = clock_timestamp() "
            "WHERE id = :id AND state = 'open'"
        ),
        {"id": batch_id, "state": state, "reason": reason},
    )


def dissolve(connection: Connection, batch: Batch, reason: str, *, count: bool) -> None:
    """Give the jobs back to be planned anew, each by itself; their rows are locked. ``count``: the next one is smaller."""
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs SET state = 'planned', batch_id = NULL, batch_tries = batch_tries + :more,
                reason = :reason, updated_at = clock_timestamp() WHERE id = ANY(:ids)
            """
        ),
        {
            "ids": [job.id for job in batch.jobs],
            "more": int(count),
            "reason": reason[: jobs.REASON_CHARACTERS_MAXIMUM],
        },
    )
    end(connection, batch.id, "dissolved", reason)


def give_back_one(connection: Connection, job: SweepJob, reason: str) -> None:
    """Give one job back to be planned anew; the others of its batch are booked."""
    connection.execute(
        text(
            "UPDATE fleet.sweep_jobs SET state = 'planned', batch_id = NULL, reason = :reason, "
            "updated_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": job.id, "reason": reason},
    )


def own_transactions_open(connection: Connection, members: Sequence[SweepJob]) -> set[str]:
    """Addresses among these that have a transaction of their own under way: no second one may carry their authority."""
    return set(
        connection.execute(
            text(
                "SELECT DISTINCT sender FROM fleet.chain_transactions WHERE chain_id = :chain "
                "AND sender = ANY(:addresses) AND state IN ('intent', 'signed', 'broadcast')"
            ),
            {"chain": members[0].chain_id, "addresses": [job.address for job in members]},
        ).scalars()
    )
