"""What becomes of one delivery, whoever sent it: its state, why, and which transaction is worth a look."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Look:
    """A transaction that the watcher is asked to look at."""

    chain_id: int
    transaction_hash: str
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one delivery: the state of ``fleet.webhook_deliveries``, and why."""

    state: str
    reason: str
    event: str | None = None
    payment_id: UUID | None = None
    look: Look | None = None
