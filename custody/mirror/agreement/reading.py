"""Consistent reads of both stores, each of its own moment: what changed between the two is looked at again."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure
from sqlalchemy import Connection, Engine, text

from custody.store.engine import limit_transaction, transaction
from custody.store.mongo import Document

LIMITS_MS: Final[Mapping[str, int]] = dict.fromkeys(
    ("transaction_timeout", "statement_timeout", "idle_in_transaction_session_timeout"), 300_000
)
"""Of one read of Postgres: a million rows take about ten. It takes no lock and has no transaction id, so that neither
writers nor the ledger's seal wait for it; longer, and it would keep dead rows from being cleaned up."""

_NO_SNAPSHOT_CODES: Final = frozenset({72, 123, 246, 263, 20})
"""What a server answers that has no snapshot to read at: it is no replica set, or does not know the words."""


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """One REPEATABLE READ READ ONLY transaction."""
    with transaction(engine) as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        limit_transaction(connection, LIMITS_MS)
        # Hashing is all that is done with a row: more memory to sort and join in, and no compiling of long expressions.
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
        connection.execute(text("SET LOCAL jit = off"))
        yield connection


@contextmanager
def snapshot(database: Database[Document]) -> Generator[ClientSession | None]:
    """A session whose reads are all of one moment; None where the server offers none: then reads are of a majority."""
    with database.client.start_session(snapshot=True) as session:
        try:
            # The first read fixes the moment.
            database["payments"].find_one({}, {"_id": 1}, session=session)
        except OperationFailure as error:
            if error.code not in _NO_SNAPSHOT_CODES:
                raise
            yield None
            return
        yield session


def moment_of(session: ClientSession | None) -> Any:
    """The moment of a snapshot, for a session of another process; None where there is none."""
    return None if session is None else session._snapshot_time


@contextmanager
def snapshot_at(database: Database[Document], moment: Any) -> Generator[ClientSession | None]:
    """A session at a moment that another process's session has read at."""
    if moment is None:
        yield None
        return
    with database.client.start_session(snapshot=True) as session:
        session._snapshot_time = moment
        yield session
