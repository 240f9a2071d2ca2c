"""Alarms on their way: said once in the log and to Sentry, and posted until the receiver or a person acknowledges.

An alarm that was posted and whose process died before the acknowledgement was written is posted again, under its id.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy import Engine

from custody.alarms import rows
from custody.alarms.rows import Alarm
from custody.alarms.webhook import AlarmWebhook, NotDelivered
from custody.store.engine import transaction

log = structlog.get_logger(__name__)


def say(engine: Engine, aloud: Callable[[Alarm], None]) -> int:
    """Call ``aloud`` with at most BATCH alarms that nobody has heard of, the oldest first; how many those are."""
    with transaction(engine) as connection:
        batch = rows.unsaid(connection)
    for alarm in batch:
        aloud(alarm)
    if batch:
        with transaction(engine) as connection:
            rows.mark_said(connection, [alarm.id for alarm in batch])
    return len(batch)


def deliver(engine: Engine, webhook: AlarmWebhook, clock: Callable[[], datetime]) -> int:
    """Post the next batch, if it is due; how many alarms were acknowledged with it.

    ``clock`` gives the time that is signed: the receiver compares it with its own.
    """
    with transaction(engine) as connection:
        batch = rows.due(connection)
        open_alarms = rows.count_open(connection) if batch else 0
    if not batch:
        return 0
    try:
        taken = webhook.post(batch, open_alarms=open_alarms, now=clock())
    except NotDelivered as error:
        with transaction(engine) as connection:
            rows.put_off(connection, batch, str(error))
        log.warning("alarms_not_delivered", alarms=len(batch), reason=str(error), attempts=batch[0].attempts + 1)
        return 0
    with transaction(engine) as connection:
        return rows.acknowledged_by_receiver(connection, [alarm.id for alarm in batch[:taken]])
