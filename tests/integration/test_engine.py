"""The engine's guard and limits, and `fleet db upgrade`, on a real PostgreSQL (L15, design §3)."""

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from custody.mirror.agreement.reading import reading
from custody.mirror.backfill.running import owning
from custody.store import engine as engine_module
from custody.store.engine import (
    SocketInsideTransaction,
    forbid_inside_transaction,
    is_retryable,
    limit_transaction,
    open_engine,
    ring_relay,
    sqlalchemy_url,
    sqlstate,
    transaction,
)
from custody.store.roles import RolePasswordMissing
from custody.store.upgrade import upgrade_database
from tests.conftest import Database


def is_forbidden() -> bool:
    try:
        forbid_inside_transaction("a test's socket")
    except SocketInsideTransaction:
        return True
    return False


def insert_and_fail(connection: Connection) -> None:
    connection.execute(text("INSERT INTO fleet.outbox (queue) VALUES ('sweeps')"))
    raise ZeroDivisionError


def test_sockets_are_forbidden_inside_a_transaction_and_nowhere_else(database: Database) -> None:
    engine = database.engine()
    assert not is_forbidden()
    with transaction(engine):
        with pytest.raises(SocketInsideTransaction, match="a node inside a Postgres transaction: commit first"):
            forbid_inside_transaction("a node")
        with transaction(engine):
            assert is_forbidden()
        assert is_forbidden()  # the inner one's end opens nothing
    assert not is_forbidden()


def test_the_guard_is_lifted_after_an_error_and_the_work_rolled_back(database: Database) -> None:
    engine = database.engine()
    with pytest.raises(ZeroDivisionError), transaction(engine) as connection:
        insert_and_fail(connection)
    assert not is_forbidden()
    with pytest.raises(DBAPIError), transaction(engine) as connection:
        connection.execute(text("SELECT 1/0"))
    assert not is_forbidden()
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM fleet.outbox")).scalar_one() == 0
        connection.execute(text("INSERT INTO fleet.outbox (queue) VALUES ('sweeps')"))
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM fleet.outbox")).scalar_one() == 1


def test_the_guard_is_lifted_when_the_database_cannot_be_reached() -> None:
    engine = open_engine("postgresql://nobody@127.0.0.1:1/none", application="test")
    with pytest.raises(OperationalError), transaction(engine):
        pass
    assert not is_forbidden()
    ring_relay(engine)  # best effort: the relay polls anyway
    engine.dispose()


def test_ringing_the_relay_is_best_effort_when_the_pool_is_exhausted(database: Database) -> None:
    engine = create_engine(sqlalchemy_url(database.url()), pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        ring_relay(engine)
    engine.dispose()


def test_the_guard_binds_its_own_thread_only(database: Database) -> None:
    with transaction(database.engine()), ThreadPoolExecutor(1) as pool:
        assert not pool.submit(is_forbidden).result(10)


def test_each_session_carries_the_limits_and_a_name(database: Database) -> None:
    role = "fleet_watcher"
    expected = {
        "statement_timeout": "20s",
        "lock_timeout": "10s",
        "transaction_timeout": "30s",
        "idle_in_transaction_session_timeout": "5s",
        "TimeZone": "UTC",
        "application_name": f"test-{role}",
    }
    with transaction(database.engine(role)) as connection:
        found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in expected}
    assert found == expected


@pytest.mark.parametrize("begin", [transaction, reading, owning])
def test_long_work_outlives_the_limit_that_its_session_began_with(
    database: Database, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Engine], AbstractContextManager[Connection]]
) -> None:
    monkeypatch.setattr(engine_module, "TRANSACTION_TIMEOUT_MS", 1_000)
    engine = open_engine(database.url(), application="test-limits", pool_size=1)
    with engine.connect():  # dialled and looked at, which would count
        pass
    with begin(engine) as connection:
        if begin is transaction:
            limit_transaction(connection, {"transaction_timeout": 60_000})
        connection.execute(text("SELECT pg_sleep(1.2)"))
        assert connection.execute(text("SHOW transaction_timeout")).scalar_one() != "1s"
    with transaction(engine) as connection:
        assert connection.execute(text("SHOW transaction_timeout")).scalar_one() == "1s"
    engine.dispose()


def test_the_relay_is_woken_after_a_commit(database: Database) -> None:
    import psycopg

    with psycopg.connect(database.url(), autocommit=True) as listener:
        listener.execute(f"LISTEN {engine_module.OUTBOX_CHANNEL}")
        ring_relay(database.engine("fleet_watcher"))
        assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1


def test_errors_show_their_sqlstate_and_whether_a_repeat_may_help(database: Database) -> None:
    engine = database.engine()
    with pytest.raises(DBAPIError) as caught, transaction(engine) as connection:
        connection.execute(text("SELECT 1/0"))
    assert (sqlstate(caught.value), is_retryable(caught.value)) == ("22012", False)
    with transaction(engine) as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 1"))
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
    assert (sqlstate(caught.value), is_retryable(caught.value)) == ("55P03", True)
    assert sqlstate(ValueError()) is None


def test_parameters_of_a_failed_statement_are_not_shown(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught, transaction(database.engine()) as connection:
        connection.execute(text("SELECT CAST(:n AS integer) / 0, CAST(:secret AS text)"), {"n": 1, "secret": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "query"),
    [
        ("postgresql://u:p%2Fw@h:1/d", "h", {}),
        ("postgres://u@h/d?sslmode=require", "h", {"sslmode": "require"}),
        ("postgresql:///d?host=/run/postgresql", None, {"host": "/run/postgresql"}),
    ],
)
def test_only_the_scheme_of_a_url_changes(url: str, host: str | None, query: dict[str, str]) -> None:
    found = make_url(sqlalchemy_url(url))
    assert (found.drivername, found.host, found.database, dict(found.query)) == ("postgresql+psycopg", host, "d", query)


# Upgrade -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_database(database: Database) -> Iterator[str]:
    """The URL of a database with nothing in it, for an administrator."""
    name = f"test_{secrets.token_hex(6)}"
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE template0'))
    yield urlunsplit(urlsplit(database.url())._replace(path=f"/{name}"))
    with database.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


CATALOGUE = (
    "SELECT table_schema, table_name, column_name, data_type, column_default, is_nullable FROM information_schema.columns "
    "WHERE table_schema IN ('public', 'fleet') ORDER BY 1, 2, 3",
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
    "WHERE connamespace IN ('public'::regnamespace, 'fleet'::regnamespace) ORDER BY 1, 2",
    "SELECT schemaname, indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'fleet') ORDER BY 1, 2",
    "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger "
    "WHERE NOT tgisinternal ORDER BY 1, 2",
    "SELECT proname, prosecdef, proacl::text, proowner::regrole::text, md5(prosrc) FROM pg_proc "
    "WHERE pronamespace IN ('public'::regnamespace, 'fleet'::regnamespace) ORDER BY 1, 2, 3",
    "SELECT relname, relowner::regrole::text, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a) "
    "FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'fleet'::regnamespace) ORDER BY 1, 2",
    "SELECT attrelid::regclass::text, attname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(attacl) a) "
    "FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid IN (SELECT oid FROM pg_class "
    "WHERE relnamespace IN ('public'::regnamespace, 'fleet'::regnamespace)) ORDER BY 1, 2",
    "SELECT * FROM fleet.posting_rules ORDER BY book_kind, entry_type, reason, debit, credit, poster_role",
    "SELECT version_num FROM public.fleet_schema_version",
)


def catalogue(engine: Engine) -> list[list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return [[tuple(row) for row in connection.execute(text(statement))] for statement in CATALOGUE]


def test_two_upgrades_at_once_make_what_one_makes_and_a_repeat_changes_nothing(
    database: Database, empty_database: str, role_passwords: Path
) -> None:
    gate = threading.Barrier(2)

    def run() -> None:
        engine = open_engine(empty_database, application="test-upgrade", pool_size=1)
        try:
            gate.wait(20)
            upgrade_database(engine, role_passwords)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(run) for _ in range(2)]:
            future.result(120)
    engine = open_engine(empty_database, application="test-upgrade", pool_size=1)
    made = catalogue(engine)
    assert made == catalogue(database.engine())
    upgrade_database(engine, role_passwords)
    assert catalogue(engine) == made
    with engine.connect() as connection:  # the upgrade's own limits and role are not left on its session
        shown = [
            connection.execute(text(f"SHOW {name}")).scalar_one() for name in ("lock_timeout", "transaction_timeout")
        ]
        assert shown == ["10s", "30s"]
        assert connection.execute(text("SELECT current_user = session_user")).scalar_one()
    engine.dispose()


def test_an_upgrade_that_fails_leaves_nothing_and_the_next_succeeds(
    empty_database: str, role_passwords: Path, tmp_path: Path
) -> None:
    engine = open_engine(empty_database, application="test-upgrade", pool_size=1)
    with pytest.raises(RolePasswordMissing, match="fleet_ingress"):
        upgrade_database(engine, tmp_path)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regnamespace('fleet') IS NULL")).scalar_one()
    second = open_engine(empty_database, application="test-upgrade", pool_size=1)
    upgrade_database(second, role_passwords)  # the first one's lock is free
    with second.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM fleet.posting_rules")).scalar_one() > 0
    second.dispose()
    engine.dispose()
