"""Connections to Postgres: bounded, named, and never open across another socket (L15)."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import psycopg
import structlog
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

log = structlog.get_logger(__name__)

# L15: longer than any step needs; the seal of the ledger waits for the longest writer.
TRANSACTION_TIMEOUT_MS: Final = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 20_000
LOCK_TIMEOUT_MS: Final = 10_000
CONNECT_TIMEOUT_SECONDS: Final = 5
POOL_SIZE: Final = 4  # a worker process runs one task at a time; the rest is for the ingress' flushers
POOL_OVERFLOW: Final = 4

BATCH_ATTEMPTS: Final = 5  # L17: deadlocks and serialization failures are retried, at most this often
RETRYABLE_SQLSTATES: Final = frozenset({"40P01", "40001", "55P03"})

OUTBOX_CHANNEL: Final = "fleet_outbox"

_in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)


class SocketInsideTransaction(AssertionError):
    """Code reached for another socket while a Postgres transaction was open (L15)."""


def forbid_inside_transaction(what: str) -> None:
    """Called by every client of another server before it uses its socket.

    Raises SocketInsideTransaction: a slow node must never hold a row lock or the ledger's seal back.
    """
    if _in_transaction.get():
        raise SocketInsideTransaction(f"{what} inside a Postgres transaction: commit first (L15)")


def sqlalchemy_url(url: str) -> str:
    """The same database for SQLAlchemy: ``postgresql+psycopg://``."""
    # Only the scheme changes: taking a URL apart and together loses the empty host of a Unix socket's.
    return f"postgresql+psycopg://{url.partition('://')[2]}"


def open_engine(url: str, *, application: str, pool_size: int = POOL_SIZE) -> Engine:
    """An engine whose sessions carry this process's name and the fleet's time limits."""
    options = " ".join(
        f"-c {name}={value}"
        for name, value in (
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
            ("lock_timeout", LOCK_TIMEOUT_MS),
            ("transaction_timeout", TRANSACTION_TIMEOUT_MS),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT_MS),
            ("timezone", "UTC"),
        )
    )
    return create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=POOL_OVERFLOW,
        pool_pre_ping=True,
        hide_parameters=True,
        use_native_hstore=False,  # no column is one, and each new connection would look for its type
        connect_args={
            "application_name": application,
            "options": options,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        },
    )


@contextmanager
def transaction(engine: Engine) -> Generator[Connection]:
    """One transaction: commits at the end, rolls back on any error, and refuses other sockets meanwhile."""
    token = _in_transaction.set(True)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        _in_transaction.reset(token)


def limit_transaction(connection: Connection, limits_ms: Mapping[str, int]) -> None:
    """Give the transaction that is open other time limits than its session's, until it ends."""
    # PostgreSQL sets the clock of transaction_timeout only where none runs: one that runs is stopped first.
    for name, milliseconds in (("transaction_timeout", 0), *limits_ms.items()):
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": str(milliseconds)})


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE behind a SQLAlchemy or psycopg error, or None."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_retryable(error: BaseException) -> bool:
    """Whether the same transaction may succeed when run again (deadlock, serialization, lock wait)."""
    return sqlstate(error) in RETRYABLE_SQLSTATES


def attempts() -> Iterator[int]:
    """1 .. BATCH_ATTEMPTS, for a loop that repeats a transaction while ``is_retryable``."""
    yield from range(1, BATCH_ATTEMPTS + 1)


def ring_relay(engine: Engine) -> None:
    """Wake the relay after a commit. Best effort: it polls anyway, and a money transaction never NOTIFYs (L16)."""
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": OUTBOX_CHANNEL})
    except SQLAlchemyError as error:  # the pool's timeout is none of the driver's errors
        log.debug("relay_not_woken", sqlstate=sqlstate(error))
