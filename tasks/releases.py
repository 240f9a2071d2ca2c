"""Queue releases: payouts are found, reserved, handed out, broadcast and booked."""

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Raises SettingsError naming what is missing."""
    from custody.releases.step import build as build_step

    step = build_step(engine, settings)
    return lambda: step.run_once(settings.claim_limit)


_door = Door("releases", build)


@shared_task(name="releases.advance")
def advance(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)
