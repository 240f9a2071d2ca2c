"""The fence of a chain's one watcher: a process that was thought dead and wakes up can write nothing (L12)."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from custody.store.engine import transaction


class Fenced(Exception):
    """Another watcher has taken the chain since: nothing of this transaction is kept."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A watcher's right to write about a chain, until the next one takes it."""

    chain_id: int
    token: int

    @classmethod
    def take(cls, engine: Engine, chain_id: int) -> "Fence":
        """Take the chain. Waits for what the watcher before has under way, and stops everything it does later."""
        with transaction(engine) as connection:
            token = connection.execute(
                text(
                    """
                    INSERT INTO fleet.chain_watchers AS w (chain_id, fence) VALUES (:id, 1)
                    ON CONFLICT (chain_id) DO UPDATE SET fence = w.fence + 1, taken_at = clock_timestamp()
                    RETURNING fence
                    """
                ),
                {"id": chain_id},
            ).scalar_one()
        return cls(chain_id, token)

    @contextmanager
    def transaction(self, engine: Engine) -> Generator[Connection]:
        """A transaction that holds the chain until it ends. Raises Fenced when another watcher has it."""
        with transaction(engine) as connection:
            held = connection.execute(
                text("SELECT 1 FROM fleet.chain_watchers WHERE chain_id = :id AND fence = :token FOR SHARE"),
                {"id": self.chain_id, "token": self.token},
            ).first()
            if held is None:
                raise Fenced(f"chain {self.chain_id}: another watcher has taken over")
            yield connection
