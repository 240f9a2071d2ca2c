"""The queues: one table that Celery, the relay, the processes and docker-compose.yml are made from."""

from dataclasses import dataclass
from typing import Final

from custody.store.outbox import Queue

DOORBELL_EXPIRY_SECONDS: Final = 30
"""A doorbell that waited longer rings for rows that a schedule has rung for since: it is dropped unread."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue: its doorbell task, the database role its worker connects as (R9), its processes, what it does."""

    name: Queue
    doorbell: str
    role: str
    concurrency: int
    does: str
    expires_seconds: int = DOORBELL_EXPIRY_SECONDS


QUEUES: Final = (
    QueueSpec(
        "webhooks",
        "webhooks.process",
        "fleet_webhooks",
        1,
        "Parses journalled deliveries, links each to its payment and asks for a look at its transaction.",
    ),
    QueueSpec(
        "confirmations",
        "confirmations.advance",
        "fleet_confirmations",
        1,
        "Holds what the chain has confirmed deeply enough.",
    ),
    # One process each: a nonce lane and a signer take one transaction at a time anyway.
    QueueSpec(
        "sweeps",
        "sweeps.advance",
        "fleet_sweeps",
        1,
        "Moves coins from derived destinations to the treasury.",
    ),
    QueueSpec(
        "releases",
        "releases.advance",
        "fleet_releases",
        1,
        "Reserves, hands out, broadcasts and books payouts that a hardware signer approves.",
    ),
    QueueSpec(
        "mirror",
        "mirror.apply",
        "fleet_mirror",
        1,
        "Brings what the fleet wrote to MongoDB, where the backend still reads.",
    ),
    QueueSpec(
        "housekeeping",
        "housekeeping.tidy",
        "fleet_housekeeping",
        1,
        "Deletes what is only kept for a while, and says aloud what has been waiting too long.",
    ),
)

BY_NAME: Final[dict[str, QueueSpec]] = {spec.name: spec for spec in QUEUES}


def queue(name: str) -> QueueSpec:
    """The queue of that name. Raises LookupError naming those that exist."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise LookupError(f"there is no queue {name!r}; there are: {', '.join(BY_NAME)}") from None
