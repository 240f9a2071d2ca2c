"""One moment of the database, for a report that reads several tables and must not see them move."""

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine


@contextmanager
def moment(engine: Engine) -> Generator[Connection]:
    """A read-only transaction that sees one state of the books, however long it reads.

    It has no transaction id, so it keeps no seal back (L15); Python gets no longer than 60 s between two statements.
    """
    with engine.connect() as connection:
        connection.exec_driver_sql("SET transaction_timeout = 0")
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '60s'")
        connection.commit()
        try:
            with connection.begin():
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield connection
        finally:
            # The pool gives the session to others, with the limits it was opened with.
            connection.invalidate()
