"""A part of what was read and, with the last, the place behind it: one transaction, repeated where that may succeed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import psycopg
from bson import ObjectId
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.mirror import gaps
from custody.mirror.agreement.plan import Plan
from custody.mirror.agreement.verifying import readable_plans
from custody.mirror.backfill.references import Resolver
from custody.mirror.collections import COLLECTIONS
from custody.mirror.following.applying import Outcome, apply_changes
from custody.mirror.following.changes import Change
from custody.mirror.following.positions import Counted, Position
from custody.mirror.following.rights import OP
from custody.store.engine import BATCH_ATTEMPTS, attempts, is_retryable, transaction

_NOW: Final = text("SELECT clock_timestamp()")
_PLANNED: Final = text("SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)")

Part = Sequence[tuple[str, list[Change]]]
"""Documents by collection, those that are referred to first."""

Settle = Callable[[Connection, Counted], Position]
"""Moves a place on, with what the transaction counted."""


class Writer:
    """Postgres' side of following. ``began``: when it first did; ``alive`` is called after each transaction."""

    def __init__(self, engine: Engine, alive: Callable[[], None]) -> None:
        self.engine = engine
        self.alive = alive
        self.began: datetime | None = None
        self._plans: dict[str, Plan] = {}
        self._resolver = Resolver()

    def learn(self, connection: Connection) -> None:
        """What the session's role may read."""
        self._plans = readable_plans(connection)

    def forget(self) -> None:
        """Rows may be gone that were there."""
        self._resolver.forget()

    def now(self) -> datetime:
        """Postgres' clock."""
        with transaction(self.engine) as connection:
            return connection.execute(_NOW).scalar_one()

    def commit(
        self, part: Part, read_at: datetime, counted: Counted, settle: Settle | None
    ) -> tuple[Position | None, Outcome]:
        """Apply a part, and with ``settle`` move on. Adds to ``counted``. ``read_at``: Postgres' time before MongoDB was read.

        Raises DBAPIError or psycopg.Error, and what ``settle`` raises: then nothing was written.
        """
        for attempt in attempts():
            outcome = Outcome()
            try:
                with transaction(self.engine) as connection:
                    # A table that was empty a minute ago has no statistics: a whole scan may look cheaper than it is.
                    connection.execute(_PLANNED)
                    for collection, changes in part:
                        plan = self._plans[collection]
                        outcome.add(
                            apply_changes(connection, plan, changes, self._resolver, read_at, self.began or read_at)
                        )
                    made = replace(
                        counted,
                        applied=counted.applied + outcome.applied + outcome.removed,
                        refused=counted.refused + outcome.refused,
                    )
                    moved = None if settle is None else settle(connection, made)
            except (DBAPIError, psycopg.Error) as error:
                self._resolver.forget()
                if attempt == BATCH_ATTEMPTS or not is_retryable(error):
                    raise
                continue
            counted.applied, counted.refused = made.applied, made.refused
            self.alive()
            return moved, outcome
        raise AssertionError("attempts() yields at least one")


def report_odd(connection: Connection, collection: str, keys: Sequence[str]) -> None:
    """Documents whose _id is no ObjectId have no name in Postgres. ``keys``: their _ids as text."""
    if collection not in COLLECTIONS or not keys:
        return
    reports = [gaps.Report(key, "error", "_id: expected an ObjectId", "{}") for key in dict.fromkeys(keys)]
    gaps.report(connection, OP, collection, reports)


def close_odd(connection: Connection, collection: str, keys: Sequence[str]) -> None:
    """Such documents, once they are gone."""
    gaps.close(connection, OP, collection, keys, resolution="the document is gone")


def odd_keys(keys: Sequence[str]) -> list[str]:
    """Those of these texts that name no ObjectId."""
    return [key for key in keys if not ObjectId.is_valid(key)]
