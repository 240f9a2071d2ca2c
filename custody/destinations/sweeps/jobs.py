"""Sweep jobs: one open job a destination, leased by a worker for a short time (L15)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from custody.destinations.issuing import COLLECTION
from custody.store.outbox import mirror
from custody.store.work import backoff_seconds, bury

QUEUE: Final = "sweeps"
OPEN_STATES: Final = ("planned", "funding", "transferring")
LEASE_SECONDS: Final = 20  # how long a killed worker's jobs rest; a round of I/O is shorter
REASON_CHARACTERS_MAXIMUM: Final = 500


class LeaseLost(Exception):
    """Another worker has the job now, or it is finished: nothing of this step was written."""


@dataclass(frozen=True, slots=True)
class SweepJob:
    """One sweep: ``amount_units`` (smallest unit) of ``token`` from ``address`` to ``treasury``."""

    id: UUID
    destination_id: UUID
    chain_id: int
    token: str
    strategy: str
    amount_units: int
    treasury: str
    state: str
    attempts: int
    address: str
    derivation_index: int
    derivation_path: str
    account_fingerprint: str | None
    lease_token: UUID | None
    batch_id: UUID | None = None
    batch_tries: int = 0
    """How many batches with this job reverted as a whole: each next one is half as large."""


_SELECT: Final = """
    SELECT j.id, j.destination_id, j.chain_id, j.token, j.strategy, j.amount_units, j.treasury, j.state, j.attempts,
           d.address, d.derivation_index, d.derivation_path, a.xpub_fingerprint, j.lease_token, j.batch_id, j.batch_tries
    FROM fleet.sweep_jobs j JOIN public.derived_destinations d ON d.id = j.destination_id
    LEFT JOIN fleet.deposit_accounts a ON a.id = d.deposit_account_id
"""


def _read(row: Any) -> SweepJob:
    return SweepJob(
        id=row.id,
        destination_id=row.destination_id,
        chain_id=row.chain_id,
        token=row.token,
        strategy=row.strategy,
        amount_units=int(row.amount_units),
        treasury=row.treasury,
        state=row.state,
        attempts=row.attempts,
        address=row.address,
        derivation_index=row.derivation_index,
        derivation_path=row.derivation_path,
        account_fingerprint=row.xpub_fingerprint,
        lease_token=row.lease_token,
        batch_id=row.batch_id,
        batch_tries=row.batch_tries,
    )


def lease(connection: Connection, limit: int) -> list[SweepJob]:
    """Take up to ``limit`` due jobs for LEASE_SECONDS, those that waited longest first; of a batch all jobs or none."""
    token = uuid4()
    # One worker at a time chooses, or two would each take half of a batch.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('fleet.sweep_jobs.lease', 0))"))
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs
            SET lease_token = :token, lease_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id IN (
                SELECT id FROM fleet.sweep_jobs
                WHERE state IN ('planned', 'funding', 'transferring') AND run_after <= clock_timestamp()
                  AND (lease_until IS NULL OR lease_until <= clock_timestamp())
                ORDER BY run_after, id LIMIT :limit FOR UPDATE SKIP LOCKED)
            """
        ),
        {"token": token, "seconds": LEASE_SECONDS, "limit": limit},
    )
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs j
            SET lease_token = :token, lease_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE j.batch_id IN (SELECT batch_id FROM fleet.sweep_jobs WHERE lease_token = :token)
              AND j.state IN ('planned', 'funding', 'transferring')
              AND (j.lease_until IS NULL OR j.lease_until <= clock_timestamp())
            """
        ),
        {"token": token, "seconds": LEASE_SECONDS},
    )
    rows = connection.execute(
        text(f"{_SELECT} WHERE j.lease_token = :token ORDER BY j.created_at, j.id"), {"token": token}
    )
    return [_read(row) for row in rows]


def by_ids(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, SweepJob]:
    """These jobs, by id."""
    rows = connection.execute(text(f"{_SELECT} WHERE j.id = ANY(:ids)"), {"ids": list(job_ids)})
    return {row.id: _read(row) for row in rows}


def by_id(connection: Connection, job_id: UUID) -> SweepJob:
    """One job. Raises LookupError."""
    found = by_ids(connection, [job_id])
    if job_id not in found:
        raise LookupError(f"there is no sweep job {job_id}")
    return found[job_id]


def lock(connection: Connection, job: SweepJob) -> None:
    """Lock the job's row under this worker's lease, first of all rows (L17). Raises LeaseLost."""
    row = connection.execute(
        text(
            "SELECT 1 FROM fleet.sweep_jobs WHERE id = :id AND lease_token = :token "
            "AND state IN ('planned', 'funding', 'transferring') FOR UPDATE"
        ),
        {"id": job.id, "token": job.lease_token},
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"sweep job {job.id} is another worker's or finished")


def move(connection: Connection, job: SweepJob, state: str, reason: str | None = None) -> None:
    """Set the state of a job whose row is locked; the lease stays with an open job."""
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs SET state = CAST(:state AS text), reason = :reason, updated_at = clock_timestamp(),
                lease_token = CASE WHEN :state IN ('swept', 'failed') THEN NULL ELSE lease_token END,
                lease_until = CASE WHEN :state IN ('swept', 'failed') THEN NULL ELSE lease_until END
            WHERE id = :id
            """
        ),
        {
            "id": job.id,
            "state": state,
            "reason": None if reason is None else reason[:REASON_CHARACTERS_MAXIMUM],
        },
    )


def resolve(connection: Connection, job: SweepJob) -> None:
    """What operators were told of the job is over: it went on by itself or by their hand."""
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :queue "
            "WHERE queue = :queue AND subject_kind = 'sweep_job' AND subject_id = :id AND resolved_at IS NULL"
        ),
        {"queue": QUEUE, "id": str(job.id)},
    )


def give_back(connection: Connection, jobs: Sequence[SweepJob], reasons: dict[UUID, str]) -> None:
    """End the lease of jobs that are still open, with the reason each waits for; they are due again at once."""
    if not jobs:
        return
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs SET lease_token = NULL, lease_until = NULL, run_after = clock_timestamp(),
                reason = :reason, attempts = 0 WHERE id = :id AND lease_token = :token
            """
        ),
        [
            {
                "id": job.id,
                "token": job.lease_token,
                "reason": (reasons.get(job.id) or "")[:REASON_CHARACTERS_MAXIMUM] or None,
            }
            for job in sorted(jobs, key=lambda job: job.id)
        ],
    )


def postpone(connection: Connection, jobs: Sequence[SweepJob], reason: str) -> None:
    """End the lease after something outside failed; the next try waits 1, 2, 4 .. 300 seconds."""
    if not jobs:
        return
    connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs SET lease_token = NULL, lease_until = NULL, reason = :reason,
                attempts = attempts + 1, run_after = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id = :id AND lease_token = :token
            """
        ),
        [
            {
                "id": job.id,
                "token": job.lease_token,
                "reason": reason[:REASON_CHARACTERS_MAXIMUM],
                "seconds": backoff_seconds(job.attempts + 1),
            }
            for job in sorted(jobs, key=lambda job: job.id)
        ],
    )


_UNBLOCKS: Final = {
    "top_up_reverted": "find out why the address takes no plain coins (it may have code by now, EIP-7702)",
    "transfer_log_differs": "compare the transaction's logs with the job, and what the token keeps for itself",
}


def fail(connection: Connection, job: SweepJob, reason: str) -> None:
    """Give the job up and quarantine its destination alone; an operator sees both. The job's row is locked."""
    move(connection, job, "failed", reason)
    connection.execute(
        text(
            "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = :reason, "
            "updated_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": job.destination_id, "reason": reason[:REASON_CHARACTERS_MAXIMUM]},
    )
    mirror(connection, COLLECTION, job.destination_id)
    bury(
        connection,
        queue=QUEUE,
        subject_kind="sweep_job",
        subject_id=job.id,
        reason=f"{job.address}: {reason}",
        unblocks=_UNBLOCKS.get(reason.partition(":")[0], "find out why the token refuses this address")
        + f", then: fleet destinations release {job.destination_id}",
        attempts=job.attempts + 1,
    )
