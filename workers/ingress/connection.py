"""One lasting connection of the ingress to its database, opened again after it was lost."""

from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

STATEMENT_TIMEOUT_MS: Final = 3_000  # below the request's deadline, which is below the sender's 5 s
CONNECT_TIMEOUT_SECONDS: Final = 2  # libpq's smallest
_OPTIONS: Final = " ".join(
    f"-c {name}={value}"
    for name, value in (
        ("statement_timeout", STATEMENT_TIMEOUT_MS),
        ("lock_timeout", STATEMENT_TIMEOUT_MS),
        ("timezone", "UTC"),
        ("synchronous_commit", "on"),  # a 200 promises that the row survives a crash
    )
)


class LastingConnection:
    """An autocommit connection for one task at a time."""

    def __init__(self, url: str, application: str) -> None:
        self._url = url
        self._application = application
        self._connection: AsyncConnection[TupleRow] | None = None

    async def get(self) -> AsyncConnection[TupleRow]:
        """The open connection. Raises psycopg.OperationalError if the database cannot be reached."""
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                application_name=self._application,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                options=_OPTIONS,
                tcp_user_timeout=STATEMENT_TIMEOUT_MS,
            )
        return self._connection

    async def close(self) -> None:
        """Drop the connection; the next ``get`` opens another. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
