"""Every periodic entry of the fleet, in one table.

A schedule only rings: the work is rows, and a duplicate, late or lost ring is harmless (design §2, rule 1). Beat may
run twice: the first door to claim a (name, slot) in fleet.schedule_runs answers, the others do nothing.
"""

from dataclasses import dataclass
from typing import Any, Final

from custody.store.outbox import Queue
from custody.store.schedule_runs import (
    ALARMS_SCHEDULE,
    AUDIT_SCHEDULE,
    PAYMENTS_SCHEDULE,
    QUOTES_SCHEDULE,
    VERIFY_SCHEDULE,
)

EXPIRY_PERIODS: Final = 3
"""A ring nobody answered for this many periods is dropped, so that rings never pile up behind a slow step."""

EXPIRY_LEAST_SECONDS: Final = 10
"""Below this, two hosts whose clocks differ a little would drop every ring."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One entry. ``period_seconds`` is also the length of its slot in fleet.schedule_runs."""

    name: str
    task: str
    queue: Queue
    period_seconds: int
    why: str

    @property
    def expires_seconds(self) -> int:
        return max(EXPIRY_LEAST_SECONDS, EXPIRY_PERIODS * self.period_seconds)


SCHEDULES: Final = (
    Schedule(
        "webhooks-due",
        "webhooks.process",
        "webhooks",
        5,
        "The ingress rings through the outbox; this finds deliveries whose retry is due or whose ring was lost.",
    ),
    Schedule(
        "confirmations-due",
        "confirmations.advance",
        "confirmations",
        1,
        "Depth grows with every block, and no row changes when it does.",
    ),
    Schedule(
        "sweeps-due",
        "sweeps.advance",
        "sweeps",
        1,
        "A broadcast transaction becomes final by waiting for blocks.",
    ),
    Schedule(
        "releases-due",
        "releases.advance",
        "releases",
        1,
        "The same for payouts; and signatures come in at any time.",
    ),
    Schedule(
        "mirror-due",
        "mirror.apply",
        "mirror",
        5,
        "Documents that MongoDB could not take are tried again when due.",
    ),
    Schedule(
        VERIFY_SCHEDULE,
        "mirror.apply",
        "mirror",
        10,
        "What differs between both stores rings for nobody; each ring compares the next range of documents.",
    ),
    Schedule(
        "housekeeping",
        "housekeeping.tidy",
        "housekeeping",
        60,
        "Slots of schedules are kept for an hour only, and rows that MongoDB drops by TTL go here too.",
    ),
    Schedule(
        AUDIT_SCHEDULE,
        "housekeeping.tidy",
        "housekeeping",
        60,
        "A row that somebody else wrote would show buyers an address of theirs (R20).",
    ),
    Schedule(
        ALARMS_SCHEDULE,
        "housekeeping.tidy",
        "housekeeping",
        5,
        "Alarms are rows that triggers write: nobody rings for them, and a receiver that was away is tried again.",
    ),
    Schedule(
        PAYMENTS_SCHEDULE,
        "housekeeping.tidy",
        "housekeeping",
        120,
        "Request Network drops a webhook after about 21 s; its API still lists the payment. Off without its key.",
    ),
    Schedule(
        QUOTES_SCHEDULE,
        "housekeeping.tidy",
        "housekeeping",
        5,
        "The backend opens payments without ringing, and a buyer waits for the price. Off unless ORACLE_QUOTING_ENABLED.",
    ),
)


def beat_schedule() -> dict[str, dict[str, Any]]:
    """The table as Celery's beat takes it."""
    return {
        item.name: {
            "task": item.task,
            "schedule": float(item.period_seconds),
            "kwargs": {"schedule": item.name, "period": item.period_seconds},
            "options": {"queue": item.queue, "expires": item.expires_seconds, "ignore_result": True},
        }
        for item in SCHEDULES
    }
