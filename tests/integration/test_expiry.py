"""Rows that MongoDB drops by TTL are purged here by housekeeping, in bounded steps, and nothing else is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from custody.store.engine import transaction
from custody.store.expiry import purge_expired
from tasks import housekeeping
from tests.conftest import Database
from tests.marketplace import Marketplace, object_id

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def notification(market: Marketplace, age: timedelta) -> Any:
    return market.execute(
        "INSERT INTO public.notifications (legacy_object_id, user_id, title, category, type, created_at) "
        "VALUES (:o, 'u', 't', 'c', 'y', :at) RETURNING id",
        o=object_id(),
        at=NOW - age,
    )[0].id


def session(market: Marketplace, number: int, ends_in: timedelta) -> Any:
    return market.execute(
        "INSERT INTO public.telegram_sessions (telegram_user_id, token_hash, init_data_fingerprint, expires_at) "
        "VALUES ('1', :n, :n, :at) RETURNING id",
        n=str(number),
        at=NOW + ends_in,
    )[0].id


def left(market: Marketplace) -> set[Any]:
    return {
        row.id
        for row in market.execute("SELECT id FROM public.notifications UNION SELECT id FROM public.telegram_sessions")
    }


def test_what_ended_goes_and_what_did_not_stays(database: Database) -> None:
    market = Marketplace(database)
    notification(market, timedelta(days=90, seconds=1))
    session(market, 1, timedelta(seconds=-1))
    kept = {
        notification(market, timedelta(days=89)),
        notification(market, timedelta()),
        session(market, 2, timedelta(seconds=1)),
    }
    assert housekeeping.tidy(database.engine("fleet_housekeeping"), NOW) >= 2
    assert left(market) == kept


def test_a_round_takes_the_oldest_and_no_more_than_its_limit(database: Database) -> None:
    market = Marketplace(database)
    ids = [notification(market, timedelta(days=100 + days)) for days in range(5)]
    with transaction(database.engine("fleet_housekeeping")) as connection:
        assert purge_expired(connection, now=NOW, limit=2) == 2
    assert left(market) == set(ids[:3])


@pytest.mark.parametrize("column", ["title", "message", "metadata", "user_id"])
def test_who_purges_reads_nothing_of_them(database: Database, column: str) -> None:
    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        database.engine("fleet_housekeeping").connect() as connection,
    ):
        connection.execute(text(f"SELECT {column} FROM public.notifications"))
