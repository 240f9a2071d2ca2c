"""A backfill in a test: fill MongoDB, run, and look at what both stores have."""

from datetime import datetime
from typing import Any

from sqlalchemy import text

from custody.mirror.backfill import Summary, backfill
from custody.mirror.gaps import Gap, listed
from custody.store.engine import transaction
from tests.brought_over import Mongo, differences
from tests.conftest import Database
from tests.legacy_documents import Legacy, refer_among_themselves


def fill(mongo: Mongo, size: int, seed: int = 1) -> Legacy:
    legacy = Legacy(seed, size)
    list(refer_among_themselves(legacy))
    for collection, documents in legacy.documents.items():
        mongo[collection].insert_many(documents)
    return legacy


def run(
    database: Database, mongo: Mongo, *collections: str, batch: int = 10, since: datetime | None = None
) -> list[Summary]:
    return backfill(database.engine(), mongo, collections=collections, batch=batch, since=since)


def gaps(database: Database, *, resolved: bool = False) -> list[Gap]:
    with transaction(database.engine()) as connection:
        return listed(connection, resolved=resolved)


def wrong(database: Database, mongo: Mongo) -> list[str]:
    with database.engine().connect() as connection:
        return differences(connection, mongo)


def contents(database: Database) -> dict[str, set[str]]:
    """Every row of every table that a backfill writes, with the transaction that wrote it."""
    with database.engine().connect() as connection:
        tables = connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'fleet_schema_version'")
        ).scalars()
        return {
            name: set(connection.execute(text(f"SELECT t.xmin::text || t::text FROM public.{name} t")).scalars())
            for name in tables.all()
        }


def execute(database: Database, statement: str, **parameters: Any) -> list[Any]:
    with database.engine().begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result.all()) if result.returns_rows else []
