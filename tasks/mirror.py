"""Queue mirror: what the fleet wrote is brought to MongoDB."""

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Raises SettingsError when MONGO_URL is missing."""
    from custody.mirror import run_once
    from custody.store.mongo import open_mongo

    client = open_mongo(settings.secret("mongo_url"), application="fleet-mirror")
    database = client[settings.mongo_database]
    return lambda: run_once(engine, database, settings.claim_limit)


_door = Door("mirror", build)


@shared_task(name="mirror.apply")
def apply(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _door.answer(schedule, period)
