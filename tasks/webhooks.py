"""Queue webhooks: journalled deliveries become looks at the chain."""

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Verification only: it needs no node and imports no web3."""
    from custody.providers.verification import run_once

    return lambda: run_once(engine, settings.claim_limit, attempts_limit=settings.work_attempts_limit)


_door = Door("webhooks", build)


@shared_task(name="webhooks.process")
def process(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)
