"""SQL is kept in files of its own; this reads them as package data and runs them as they stand."""

from importlib.resources import files

from sqlalchemy import Connection


def read_sql(package: str, name: str) -> str:
    """The text of ``name`` in ``package`` (e.g. ``custody.ledger.sql``, ``post_entry.sql``)."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def run_sql(connection: Connection, package: str, name: str) -> None:
    """Run a whole SQL file in the connection's transaction, with no placeholder of any kind in it."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(read_sql(package, name))
