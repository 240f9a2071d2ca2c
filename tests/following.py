"""A follower in a test: real servers, steps until it has caught up, and what both stores have then."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database as MongoDatabase
from sqlalchemy import Engine, text

from custody.mirror.agreement import verify
from custody.mirror.following import Follower, Position
from custody.mirror.gaps import Gap, listed
from custody.store.engine import transaction
from tests.conftest import Database

Mongo = MongoDatabase[dict[str, Any]]

STEPS_MAXIMUM = 400
AWAIT_MS = 20  # an answer without events is one, however soon


class Following:
    """A follower as its own role. ``follow``: steps until nothing is left to bring over and nothing is due."""

    def __init__(self, database: Database, mongo: Mongo) -> None:
        self.database = database
        self.mongo = mongo
        self.engine: Engine = database.engine("fleet_follower")
        self.follower = self.new()

    def new(self) -> Follower:
        return Follower(self.engine, self.mongo, await_ms=AWAIT_MS)

    def restart(self) -> None:
        """A new follower, as a process that died and was started again."""
        self.follower.reset()
        self.follower = self.new()

    def follow(self) -> Position:
        for _ in range(STEPS_MAXIMUM):
            self.follower.step()
            position = self.follower.position
            if position is not None and position.caught_up and not self.is_due():
                return position
        raise AssertionError(f"not within {STEPS_MAXIMUM} steps: {self.follower.position}, {self.revisits()}")

    def is_due(self) -> bool:
        """Whether a document is to be looked at again within the second."""
        return bool(
            self.execute(
                "SELECT FROM fleet.mirror_revisits WHERE run_after < clock_timestamp() + interval '0.9 seconds' "
                "AND reason = 'suspected' LIMIT 1"
            )
        )

    def revisits(self) -> list[Any]:
        return self.execute("SELECT collection, object_id, reason, attempts FROM fleet.mirror_revisits ORDER BY 1, 2")

    def hasten(self) -> None:
        """What is to be looked at again is due now."""
        self.execute("UPDATE fleet.mirror_revisits SET run_after = clock_timestamp() - interval '1 second'")
        self.follower._revisit_at = 0.0

    def execute(self, statement: str, **values: Any) -> list[Any]:
        with self.database.engine().begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def differing(self) -> dict[str, list[str]]:
        """What the comparison of both stores finds, by collection."""
        outcomes = verify(self.database.engine(), self.mongo)
        return {
            each.collection: [
                f"{look.object_id} {look.verdict.value} {look.reason} {[f.name for f in look.fields]}"
                for look, _ in each.looks
            ]
            for each in outcomes
            if not each.is_equal or each.counted.waiting
        }

    def gaps(self, **chosen: Any) -> list[Gap]:
        with transaction(self.database.engine()) as connection:
            return listed(connection, **chosen)


@contextmanager
def following(database: Database, mongo: Mongo) -> Generator[Following]:
    made = Following(database, mongo)
    try:
        yield made
    finally:
        made.follower.reset()
