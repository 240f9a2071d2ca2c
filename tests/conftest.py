"""Real servers for every test that needs one: started once a run, a fresh database a test."""

import gc
import hashlib
import os
import secrets
import signal
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from httpx import create_ssl_context
from pymongo import MongoClient
from sqlalchemy import Connection, Engine, create_engine, text
from xdist.scheduler import LoadScopeScheduling

from custody.store.engine import open_engine, sqlalchemy_url, transaction
from custody.store.roles import read_role_password
from custody.store.upgrade import upgrade_database
from tests import counts as counted
from tests.counts import Counts
from tests.state_folders import forget, state_folder
from workers.embedded import mongo, postgres
from workers.embedded import services as embedded
from workers.embedded.role_passwords import ensure_role_passwords

COUNTS = "counts"
RUNNING_FLEET = "tests/faults/running_fleet/"
STATE_DIR = state_folder("tests", "FLEET_TEST_STATE_DIR")
KEEP_SERVICES = os.environ.get("FLEET_TEST_KEEP_SERVICES") == "1"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Whoever starts the tests in the background has SIGINT ignored by all that they start, too: Ctrl-C would end nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class FileByFile(LoadScopeScheduling):
    """One process runs all tests of a file, and one all those of the running fleet's folder."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return RUNNING_FLEET if path.startswith(RUNNING_FLEET) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    return FileByFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device-json", type=Path, default=None, help="with TREZOR_TEST_PATH: what the device signed, as JSON"
    )


@pytest.fixture
def counts(record_property: Callable[[str, object], None]) -> Counts:
    """For tests that try something often: ``counts("kills", 9)`` (L23)."""
    said: dict[str, int] = {}
    record_property(COUNTS, said)
    return said.__setitem__


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    said = dict(report.user_properties).get(COUNTS)
    if counted.FULL and report.when == "call" and report.passed and isinstance(said, dict):
        counted.write(counted.FILE, report.nodeid, said, report.duration)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: no use to search it for garbage, neither meanwhile nor ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_ssl_context() -> Iterator[None]:
    """httpx reads the public authorities for each client: 50 ms of processor time. Who names its own gets them."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def one(verify: Any = True, **more: Any) -> ssl.SSLContext:
        return nobody if verify is True else create_ssl_context(verify=verify, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", one)
        yield


@pytest.fixture(scope="session")
def services() -> Iterator[embedded.Services]:
    """PostgreSQL and mongod, running. FLEET_TEST_KEEP_SERVICES=1 leaves them for the next run.

    Most tests of a chain or a broker have one of their own; those that use these are run by ``make test-long`` alone.
    """
    running = embedded.up(STATE_DIR, servers=embedded.SERVERS if counted.FULL else (postgres.SERVER, mongo.SERVER))
    with _maintenance(running.database_admin_url).connect() as connection:
        # Databases come and go with each test; a killed process needs no disk to remember, only a power cut would.
        for setting in ("fsync", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    yield running
    _maintenance(running.database_admin_url).dispose()
    if not KEEP_SERVICES:
        embedded.down(STATE_DIR)
        forget(STATE_DIR)


@dataclass
class Database:
    """A fresh database at the newest revision. ``engine(role)`` connects as one of the fleet's roles (R9)."""

    name: str
    admin_url: str
    passwords_dir: Path
    _engines: dict[str, Engine] = field(default_factory=dict[str, Engine])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, role: str | None = None) -> str:
        parts = urlsplit(self.admin_url)
        netloc = parts.netloc
        if role is not None:
            password = quote(read_role_password(self.passwords_dir, role), safe="")
            netloc = f"{role}:{password}@{netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{self.name}"))

    def engine(self, role: str | None = None) -> Engine:
        key = role or "admin"
        with self._lock:  # tests ask from several threads; a second engine would never be disposed of
            if key not in self._engines:
                self._engines[key] = open_engine(self.url(role), application=f"test-{key}")
            return self._engines[key]

    @contextmanager
    def acting(self, role: str) -> Generator[Connection]:
        """A transaction of the admin's session that is the role's (R9): what a role may do it may do here, and no more.

        Each login costs a server process that has compiled nothing yet, which is most of what a short test takes.
        """
        with transaction(self.engine()) as connection:
            connection.execute(text(f'SET LOCAL SESSION AUTHORIZATION "{role}"'))
            yield connection

    def dispose(self) -> None:
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()


@pytest.fixture(scope="session")
def role_passwords(services: embedded.Services) -> Path:
    return ensure_role_passwords(services.state_dir)


@cache
def _maintenance(admin_url: str) -> Engine:
    """One for all tests, which make and drop their databases by it."""
    parts = urlsplit(admin_url)
    return create_engine(sqlalchemy_url(urlunsplit(parts._replace(path="/postgres"))), isolation_level="AUTOCOMMIT")


def _schema_fingerprint() -> str:
    digest = hashlib.sha256()
    for package in (
        "custody.store.migrations", "custody.store.sql", "custody.ledger.sql", "custody.payments.sql", "custody.destinations.sql",
    ):  # fmt: skip
        root = Path(str(files(package)))
        for path in sorted(p for p in root.rglob("*") if p.suffix in {".sql", ".py"}):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@pytest.fixture(scope="session")
def template_database(services: embedded.Services, role_passwords: Path) -> str:
    """A migrated database that tests clone; remade when any SQL changes."""
    name = f"template_{_schema_fingerprint()}"
    maintenance = _maintenance(services.database_admin_url)
    with maintenance.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(7201)"))
        exists = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}).first()
        if exists is None:
            making = f"{name}_making"
            connection.execute(text(f'DROP DATABASE IF EXISTS "{making}" WITH (FORCE)'))
            connection.execute(text(f'CREATE DATABASE "{making}"'))
            parts = urlsplit(services.database_admin_url)
            engine = open_engine(urlunsplit(parts._replace(path=f"/{making}")), application="test-template")
            upgrade_database(engine, role_passwords)
            engine.dispose()
            connection.execute(text(f'ALTER DATABASE "{making}" RENAME TO "{name}"'))
        connection.execute(text("SELECT pg_advisory_unlock(7201)"))
    return name


@contextmanager
def fresh_database(admin_url: str, template: str, role_passwords: Path) -> Generator[Database]:
    """A clone of the template, dropped at the end."""
    name = f"test_{secrets.token_hex(6)}"
    maintenance = _maintenance(admin_url)
    with maintenance.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(7201)"))
        # Copying files takes half the processor time of writing 15 MB through the log.
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY'))
        connection.execute(text("SELECT pg_advisory_unlock(7201)"))
    made = Database(name, admin_url, role_passwords)
    yield made
    made.dispose()
    with maintenance.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


@pytest.fixture
def database(services: embedded.Services, template_database: str, role_passwords: Path) -> Iterator[Database]:
    """A fresh database of this test's own."""
    with fresh_database(services.database_admin_url, template_database, role_passwords) as made:
        yield made


@pytest.fixture(scope="module")
def module_database(services: embedded.Services, template_database: str, role_passwords: Path) -> Iterator[Database]:
    """One database for all tests of a module: for those that only add rows of their own."""
    with fresh_database(services.database_admin_url, template_database, role_passwords) as made:
        yield made


@pytest.fixture(scope="session")
def mongo_client(services: embedded.Services) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](services.mongo_url) as client:
        yield client


@pytest.fixture
def mongo_database(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a fresh MongoDB database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    mongo_client.drop_database(name)
