"""The rows of fleet.alarms. Triggers write them (custody/store/sql/alarms.sql); here they are read and delivered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.settings.redaction import without_keys
from custody.store.engine import sqlstate
from custody.store.work import backoff_seconds

BATCH: Final = 20
"""Alarms a request: at 500 characters a sentence they are below the receiver's limit, even if every one is escaped."""
WAIT_MAXIMUM_SECONDS: Final = 60  # a receiver that is back hears within a minute what it missed
ERROR_CHARACTERS: Final = 500
LISTED_MAXIMUM: Final = 200  # lines a person reads


class AlarmRefused(Exception):
    """The alarm is not there, or the label is none. The message says which."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that came to need people. ``sentence`` is as it was raised; ``said`` is for outside."""

    id: UUID
    kind: str
    subject_kind: str
    subject_id: str
    sentence: str
    payment_id: UUID | None
    raised_at: datetime
    attempts: int
    last_error: str | None

    @property
    def said(self) -> str:
        """The sentence without anything that looks like a key, should an error's text ever have held one."""
        return without_keys(self.sentence)

    @property
    def payment(self) -> str | None:
        """The payment's id as text."""
        return None if self.payment_id is None else str(self.payment_id)


_COLUMNS: Final = "id, kind, subject_kind, subject_id, sentence, payment_id, raised_at, attempts, last_error"


def _alarms(connection: Connection, rest: str, parameters: dict[str, object]) -> list[Alarm]:
    found = connection.execute(text(f"SELECT {_COLUMNS} FROM fleet.alarms {rest}"), parameters)  # noqa: S608
    return [Alarm(*row) for row in found]


def newest_open(connection: Connection, limit: int = LISTED_MAXIMUM) -> list[Alarm]:
    """Open alarms, the newest first."""
    return _alarms(connection, "WHERE acknowledged_at IS NULL ORDER BY id DESC LIMIT :n", {"n": limit})


def count_open(connection: Connection) -> int:
    """How many alarms are open."""
    return connection.execute(text("SELECT count(*) FROM fleet.alarms WHERE acknowledged_at IS NULL")).scalar_one()


def unsaid(connection: Connection) -> list[Alarm]:
    """At most BATCH alarms that the log and Sentry have not heard of, the oldest first."""
    return _alarms(connection, "WHERE said_at IS NULL ORDER BY id LIMIT :n", {"n": BATCH})


def mark_said(connection: Connection, ids: Sequence[UUID]) -> None:
    """The log and Sentry have heard of these."""
    connection.execute(
        text("UPDATE fleet.alarms SET said_at = clock_timestamp() WHERE id = ANY(:ids)"), {"ids": list(ids)}
    )


def due(connection: Connection) -> list[Alarm]:
    """At most BATCH open alarms, the oldest first; none while the oldest of all waits for its next try.

    So they arrive in the order they were raised, and a receiver that is away is asked no more often for a flood.
    """
    batch = _alarms(connection, "WHERE acknowledged_at IS NULL ORDER BY id LIMIT :n", {"n": BATCH})
    if not batch:
        return []
    is_due = connection.execute(
        text("SELECT run_after <= clock_timestamp() FROM fleet.alarms WHERE id = :id"), {"id": batch[0].id}
    ).scalar_one()
    return batch if is_due else []


def acknowledged_by_receiver(connection: Connection, ids: Sequence[UUID]) -> int:
    """The receiver has taken these. Returns how many were still open."""
    changed = connection.execute(
        text(
            "UPDATE fleet.alarms SET acknowledged_at = clock_timestamp(), attempts = attempts + 1, last_error = NULL "
            "WHERE id = ANY(:ids) AND acknowledged_at IS NULL"
        ),
        {"ids": list(ids)},
    )
    return changed.rowcount


def put_off(connection: Connection, batch: Sequence[Alarm], error: str) -> None:
    """The receiver did not take these: try again in 1, 2, 4 .. WAIT_MAXIMUM_SECONDS."""
    connection.execute(
        text(
            "UPDATE fleet.alarms SET attempts = attempts + 1, last_error = :error, "
            "run_after = clock_timestamp() + make_interval(secs => :wait) WHERE id = ANY(:ids) AND acknowledged_at IS NULL"
        ),
        {
            "ids": [each.id for each in batch],
            "error": error[:ERROR_CHARACTERS],
            "wait": min(WAIT_MAXIMUM_SECONDS, backoff_seconds(batch[0].attempts + 1)),
        },
    )


def acknowledge(connection: Connection, alarm_id: UUID, *, by: str) -> bool:
    """A person says that somebody knows. False if it was acknowledged before. Raises AlarmRefused."""
    try:
        return connection.execute(
            text("SELECT fleet.acknowledge_alarm(:id, :by)"), {"id": alarm_id, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        if sqlstate(error) == "FL006":
            raise AlarmRefused(str(error.orig).splitlines()[0]) from None
        raise
