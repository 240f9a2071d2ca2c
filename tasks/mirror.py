"""Queue mirror: what the fleet wrote is brought to MongoDB, and both stores are compared, a range at a time."""

from typing import Final

from celery import shared_task
from sqlalchemy import Engine

from custody.settings.environment import FleetSettings
from custody.store.schedule_runs import VERIFY_SCHEDULE
from tasks.doors import Door, Step


def build(engine: Engine, settings: FleetSettings) -> Step:
    """Raises SettingsError when MONGO_URL is missing."""
    from custody.mirror import run_once
    from custody.store.mongo import open_mongo

    client = open_mongo(settings.secret("mongo_url"), application="fleet-mirror")
    database = client[settings.mongo_database]
    return lambda: run_once(engine, database, settings.claim_limit)


def build_verify(engine: Engine, settings: FleetSettings) -> Step:
    """One range, whatever it found: 0, so that a ring is one range. Raises SettingsError when MONGO_URL is missing."""
    from custody.mirror.agreement.scheduled import verify_next
    from custody.store.mongo import open_mongo

    client = open_mongo(settings.secret("mongo_url"), application="fleet-mirror-verify")
    database = client[settings.mongo_database]

    def step() -> int:
        verify_next(engine, database)
        return 0

    return step


_door = Door("mirror", build)
_verify = Door("mirror", build_verify)
_BY_SCHEDULE: Final = {VERIFY_SCHEDULE: _verify}


@shared_task(name="mirror.apply")
def apply(schedule: str | None = None, period: int = 0) -> int:
    """One ring. The arguments are a beat's (its entry's name and period in seconds); a doorbell has none."""
    return _BY_SCHEDULE.get(schedule or "", _door).answer(schedule, period)
