"""Sweeps after a treasury's rotation (R22): what is not signed yet goes to the new treasury, what is signed settles at its own.

Bytes that were stored may have been sent, so they are final: their coins are booked where they went, and moved from there.
An intent without bytes binds nobody, for only stored bytes are ever sent (L15): its recipient is written anew. What is in
an open batch stays as it is. A forwarder follows nobody: it can pay the treasury that it was made for and no other.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection, text

from custody.chain.erc20 import encode_transfer
from custody.destinations.sweeps.jobs import SweepJob
from custody.destinations.sweeps.strategy import CREATE2_FORWARDER
from custody.settings.chains import NATIVE, Chain

log = structlog.get_logger(__name__)


def follow_treasury(connection: Connection, chain: Chain, jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """The leased jobs as they are after ``chain.treasury`` took another's place, in one transaction with their intents."""
    return [
        _follow(connection, chain, job)
        if job.treasury != chain.treasury and job.treasury in chain.treasuries and job.strategy != CREATE2_FORWARDER
        else job
        for job in jobs
    ]


def _follow(connection: Connection, chain: Chain, job: SweepJob) -> SweepJob:
    moved = connection.execute(
        text(
            """
            UPDATE fleet.sweep_jobs j SET treasury = :treasury, updated_at = clock_timestamp()
            WHERE j.id = :id AND j.lease_token = :token AND NOT EXISTS (
                SELECT FROM fleet.chain_transactions t
                WHERE t.subject_id = j.id AND t.purpose = 'sweep' AND t.state <> 'intent')
              -- What a batch is made of is signed for its own treasury: it settles there, or is dissolved.
              AND NOT EXISTS (SELECT FROM fleet.sweep_batches b WHERE b.id = j.batch_id AND b.state = 'open')
            """
        ),
        {"id": job.id, "token": job.lease_token, "treasury": chain.treasury},
    )
    if moved.rowcount == 0:
        return job
    is_native = job.token == NATIVE
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET recipient = :recipient, data = :data "
            "WHERE subject_id = :id AND purpose = 'sweep' AND state = 'intent'"
        ),
        {
            "id": job.id,
            "recipient": chain.treasury if is_native else job.token,
            "data": b"" if is_native else encode_transfer(chain.treasury, job.amount_units),
        },
    )
    log.info("sweep_follows_treasury", job=str(job.id), before=job.treasury, treasury=chain.treasury)
    return replace(job, treasury=chain.treasury)
