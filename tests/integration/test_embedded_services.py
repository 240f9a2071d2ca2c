"""The embedded services as a person meets them: up, kill -9, up again, down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from pymongo import MongoClient

from tests.counts import ONLY_LONG, declared, sampled
from tests.embedded_stores import (
    STORES,
    eventually,
    read_anvil,
    read_postgres,
    rpc,
    write_anvil,
    write_postgres,
)
from tests.state_folders import share_packages
from workers.embedded import (
    anvil,
    anvil_keeper,
    launch,
    npm_packages,
    orphans,
    ports,
    postgres,
    services,
    supervision,
    unprivileged,
)
from workers.embedded.errors import EmbeddedServiceError, IntegrityError
from workers.embedded.npm_packages import NpmPackage
from workers.embedded.services import Services
from workers.embedded.state_folder import StateFolder
from workers.embedded.supervision import Program

NOTHING_GIVEN: dict[str, str] = {}


def pid_of(state_dir: Path, name: str) -> int:
    pid = next(row.pid for row in services.status(state_dir, NOTHING_GIVEN) if row.name == name)
    assert pid is not None
    return pid


class Stranger(socketserver.TCPServer):
    """Somebody else's server, which hangs up on everyone."""

    allow_reuse_address = True


def all_pids(state_dir: Path) -> list[int]:
    return [record["pid"] for record in orphans.living(StateFolder.open(state_dir))]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    state_dir = tmp_path_factory.mktemp("fleet")
    share_packages(state_dir)
    try:
        yield services.up(state_dir, NOTHING_GIVEN)
    finally:
        services.down(state_dir)


@pytest.fixture
def own(tmp_path: Path, running: Services) -> Iterator[tuple[Path, dict[str, str]]]:
    """A state folder of a test's own, and an environment that spares it the download of Anvil."""
    environment = {anvil.BINARY_SETTING: str(anvil.binary(StateFolder.open(running.state_dir), {}))}
    try:
        yield tmp_path, environment
    finally:
        services.down(tmp_path)


def test_every_server_is_the_one_promised(running: Services) -> None:
    with psycopg.connect(running.database_admin_url) as connection:
        row = connection.execute("SELECT current_setting('server_version_num')::int / 10000").fetchone()
        assert row == (18,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)
    client: Any = redis.Redis.from_url(running.broker_url)
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("append*") == {**client.config_get("append*"), "appendonly": "yes"}
    assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
    client.close()
    with MongoClient[dict[str, Any]](running.mongo_url) as mongo_client:
        assert mongo_client.admin.command("hello")["setName"] == "rs0"
    assert int(rpc(running.chain_rpc_url, "eth_chainId"), 16) == anvil.CHAIN_ID
    assert rpc(running.chain_rpc_url, "eth_accounts") == []


def test_a_password_is_needed_and_is_in_no_argument_or_open_file(running: Services) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(services.mask(running.database_admin_url).replace(":***", ":wrong"))
    client: Any = redis.Redis.from_url(services.mask(running.broker_url).replace(":***@", ""))
    with pytest.raises(redis.AuthenticationError):
        client.ping()
    client.close()
    folder = StateFolder.open(running.state_dir)
    passwords = [
        path.read_text(encoding="utf-8")
        for path in (
            folder.root / "postgres" / "superuser_password",
            folder.root / "valkey" / "password",
            folder.root / "supervision" / "password",
        )
    ]
    for pid in all_pids(running.state_dir):
        arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        assert not any(password in arguments for password in passwords)
    assert folder.root.stat().st_mode & 0o777 == 0o700
    assert folder.run.stat().st_mode & 0o777 == 0o700
    for path in folder.root.joinpath("supervision").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert not any(password in repr(running) for password in passwords)


def test_status_names_address_process_and_health(running: Services) -> None:
    rows = {row.name: row for row in services.status(running.state_dir, NOTHING_GIVEN)}
    assert list(rows) == ["postgres", "valkey", "mongo", "anvil"]
    assert all(row.ok and row.pid and launch.started(row.pid) for row in rows.values())
    assert rows["postgres"].url == services.mask(running.database_admin_url)
    assert ":***@" in rows["valkey"].url


def test_up_twice_changes_nothing(running: Services) -> None:
    before = services.status(running.state_dir, NOTHING_GIVEN)
    assert services.up(running.state_dir, NOTHING_GIVEN) == running
    assert services.status(running.state_dir, NOTHING_GIVEN) == before


def test_up_from_another_shell_and_folder_restarts_nothing(
    running: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = services.status(running.state_dir, NOTHING_GIVEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANG", "tlh_KX.UTF-8")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{tmp_path}")
    assert services.up(running.state_dir, NOTHING_GIVEN) == running
    assert services.status(running.state_dir, NOTHING_GIVEN) == before


@pytest.mark.parametrize("name", list(STORES))
def test_what_was_written_survives_kill_9(running: Services, name: str) -> None:
    write, read = STORES[name]
    write(running)
    killed = pid_of(running.state_dir, name)
    os.kill(killed, signal.SIGKILL)

    def is_back() -> bool:
        row = next(row for row in services.status(running.state_dir, NOTHING_GIVEN) if row.name == name)
        return row.ok and row.pid != killed

    eventually(is_back)
    assert read(running)


def test_anvil_killed_under_its_keeper_comes_back(running: Services) -> None:
    write_anvil(running)
    keeper = pid_of(running.state_dir, "anvil")
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text(encoding="ascii").split()
    os.kill(int(children[0]), signal.SIGKILL)
    eventually(lambda: launch.started(keeper) is None)
    eventually(lambda: all(row.ok for row in services.status(running.state_dir, NOTHING_GIVEN)))
    assert read_anvil(running)


@ONLY_LONG
def test_the_chain_keeps_its_genesis_through_many_starts(running: Services) -> None:
    def genesis() -> str:
        return rpc(running.chain_rpc_url, "eth_getBlockByNumber", "0x0", False)["hash"]

    before = genesis()
    for _ in range(5):
        keeper = pid_of(running.state_dir, "anvil")
        os.kill(keeper, signal.SIGTERM)
        eventually(lambda keeper=keeper: launch.started(keeper) is None)
        eventually(lambda: all(row.ok for row in services.status(running.state_dir, NOTHING_GIVEN)))
        assert genesis() == before


def test_of_several_first_blocks_the_oldest_is_loaded(tmp_path: Path) -> None:
    def block(number: int, timestamp: int) -> dict[str, Any]:
        return {"header": {"number": hex(number), "timestamp": hex(timestamp)}}

    state = tmp_path / "state.json"
    state.write_text(json.dumps({"blocks": [block(0, 30), block(1, 11), block(0, 10), block(0, 20)], "rest": 1}))
    anvil_keeper.keep_first_genesis(state)
    assert json.loads(state.read_text()) == {"blocks": [block(0, 10), block(1, 11)], "rest": 1}


def test_a_killed_supervisor_is_recovered_without_touching_strangers(
    own: tuple[Path, dict[str, str]],
) -> None:
    state_dir, environment = own
    running = services.up(state_dir, environment)
    write_postgres(running)
    folder = StateFolder.open(state_dir)
    orphaned = {pid_of(state_dir, name) for name in STORES}
    record = orphans.read_record(folder.records / "supervisord.json")
    assert record is not None
    # A stranger that sits on a number from an old record: same pid, another start.
    stranger = subprocess.Popen(["/bin/sleep", "600"])
    stale: launch.Record = {"name": "old", "pid": stranger.pid, "started": "0:0", "stop_signal": "TERM"}
    (folder.records / "old.json").write_text(str(stale).replace("'", '"'), encoding="utf-8")
    os.kill(record["pid"], signal.SIGKILL)
    try:
        eventually(lambda: launch.started(record["pid"]) is None)
        rows = services.status(state_dir, environment)
        assert {row.health for row in rows} == {"runs without its supervisor; run `fleet up`"}
        assert services.up(state_dir, environment) == running
        assert all(launch.started(pid) is None for pid in orphaned)
        assert stranger.poll() is None
        assert read_postgres(running)
    finally:
        stranger.kill()
        stranger.wait()


@ONLY_LONG
def test_down_leaves_no_process_and_other_ports_are_found(own: tuple[Path, dict[str, str]]) -> None:
    state_dir, environment = own
    first = services.up(state_dir, environment)
    for write, _ in STORES.values():
        write(first)
    pids = all_pids(state_dir)
    assert len(pids) >= 5
    services.down(state_dir)
    assert all(launch.started(pid) is None for pid in pids)
    assert all_pids(state_dir) == []
    with contextlib.ExitStack() as strangers:
        for port in ports.remembered(StateFolder.open(state_dir)).values():
            stranger = strangers.enter_context(Stranger((ports.HOST, port), socketserver.BaseRequestHandler))
            threading.Thread(target=stranger.serve_forever, daemon=True).start()
            strangers.callback(stranger.shutdown)
        second = services.up(state_dir, environment)
        assert all(second.settings()[name] != url for name, url in first.settings().items())
        for _, read in STORES.values():
            assert read(second)


def test_given_servers_are_asked_and_not_started(running: Services, tmp_path: Path) -> None:
    given = running.settings()
    assert services.up(tmp_path, given).settings() == given
    assert supervision.states(StateFolder.open(tmp_path)) == []
    rows = services.status(tmp_path, given)
    assert [(row.pid, row.health) for row in rows] == [(None, "ok")] * 4
    services.down(tmp_path)


@pytest.mark.parametrize("setting", sampled(["DATABASE_ADMIN_URL", "BROKER_URL", "MONGO_URL", "CHAIN_RPC_URL"]))
def test_a_given_server_that_is_away_is_named_without_its_password(
    running: Services, tmp_path: Path, setting: str
) -> None:
    with socket.socket() as closed:
        closed.bind((ports.HOST, 0))
        port = closed.getsockname()[1]
        dead = {
            "DATABASE_ADMIN_URL": f"postgresql://owner:hunter2@127.0.0.1:{port}/amanat",
            "BROKER_URL": f"redis://:hunter2@127.0.0.1:{port}/0",
            "MONGO_URL": f"mongodb://owner:hunter2@127.0.0.1:{port}/?replicaSet=rs0",
            "CHAIN_RPC_URL": f"http://127.0.0.1:{port}/v3/hunter2",
        }
        with pytest.raises(EmbeddedServiceError, match=setting) as caught:
            services.up(tmp_path, {**running.settings(), setting: dead[setting]})
    assert "hunter2" not in str(caught.value)
    services.down(tmp_path)


PROCESS = """
import json, os, pathlib, signal, subprocess, sys
child = subprocess.Popen(["/bin/sleep", "600"])
path = pathlib.Path(sys.argv[1])
seen = [os.getpid(), child.pid, os.environ.get("TOKEN"), len(os.environ)]
path.with_suffix(".new").write_text(json.dumps(seen))
path.with_suffix(".new").replace(path)
signal.sigwait([signal.SIGTERM])
child.kill()
"""


def test_the_fleets_own_processes_are_kept(running: Services, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TREASURY_SECRET_OF_ANOTHER", "leak")
    state_dir, seen = running.state_dir, tmp_path / "seen.json"

    def told() -> list[Any]:
        eventually(seen.exists)
        found: list[Any] = json.loads(seen.read_text(encoding="utf-8"))
        seen.unlink()
        return found

    def worker(token: str) -> Program:
        return Program(
            name="worker",
            argv=[sys.executable, "-c", PROCESS, str(seen)],
            env={"TOKEN": token},
            stop_wait_seconds=5,
        )

    hostile = "quote\" ' %(x)s ; # \\ \n end"
    services.start_processes(state_dir, [worker(hostile)])
    pid, child, token, variables = told()
    assert token == hostile
    assert variables <= len(supervision.INHERITED_VARIABLES) + 3
    assert "leak" not in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8")
    folder = StateFolder.open(state_dir)
    assert not any("quote" in path.read_text(encoding="utf-8") for path in folder.programs.parent.rglob("*.conf"))

    os.kill(pid, signal.SIGKILL)
    second, second_child, *_ = told()
    assert second != pid
    # A worker's child does not outlive it beside the next worker.
    eventually(lambda: launch.started(child) is None)

    services.start_processes(state_dir, [worker(hostile)])
    assert pid_of(state_dir, "worker") == second

    services.start_processes(state_dir, [worker("another")])
    third, _, token, _ = told()
    assert token == "another"
    assert launch.started(second) is None

    supervision.restart(folder, "worker")
    fourth = told()[0]
    assert fourth != third
    eventually(lambda: all(row.ok for row in services.status(state_dir, NOTHING_GIVEN)))

    supervision.remove(folder, ["worker"])
    assert launch.started(fourth) is None
    assert launch.started(second_child) is None
    assert [row.name for row in services.status(state_dir, NOTHING_GIVEN)] == list(STORES)


def test_a_processs_port_is_its_own_while_it_runs(running: Services) -> None:
    first = services.process_ports(running.state_dir, ["ingress", "flower"])
    assert len(set(first.values())) == 2
    assert services.process_ports(running.state_dir, ["ingress", "flower"]) == first
    with socket.socket() as stranger:
        stranger.bind((ports.HOST, first["ingress"]))
        stranger.listen()
        second = services.process_ports(running.state_dir, ["ingress", "flower"])
    assert second["ingress"] != first["ingress"]
    assert second["flower"] == first["flower"]


def test_a_server_name_is_refused_for_a_process(running: Services) -> None:
    with pytest.raises(EmbeddedServiceError, match="postgres: these names belong"):
        services.start_processes(running.state_dir, [Program(name="postgres", argv=["/bin/true"])])


def test_a_package_other_than_the_pinned_is_refused(tmp_path: Path) -> None:
    pin = npm_packages.package("@foundry-rs/anvil-linux-amd64")
    other = NpmPackage(pin.name, pin.version, "sha512-" + "A" * 86 + "==")
    with pytest.raises(IntegrityError, match="Nothing was unpacked"):
        npm_packages.fetch_package(other, tmp_path)
    assert not other.folder(tmp_path).exists()


def test_npm_of_the_wheel_works() -> None:
    done = subprocess.run([*npm_packages.wheel_npm_command(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout[0].isdigit()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder every user can pass to; pytest's own belong to this user only."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs_root
def test_postgres_runs_as_another_user_where_namespaces_are_forbidden(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_setuid() -> unprivileged.Method:
        return "setuid"

    monkeypatch.setattr(unprivileged, "choose", by_setuid)
    state_dir = open_folder / "fleet"
    try:
        own = services.up(state_dir, NOTHING_GIVEN, servers=(postgres.SERVER,))
        write_postgres(own)
        assert read_postgres(own)
        status = Path(f"/proc/{pid_of(state_dir, 'postgres')}/status").read_text(encoding="utf-8")
        assert f"Uid:\t{unprivileged.NOBODY}\t" in status
    finally:
        services.down(state_dir)


AS_ANOTHER = """
import os, sys
from workers.embedded import services
state_dir = sys.argv[1]
assert os.geteuid() == int(sys.argv[2])
try:
    services.up(state_dir)
    rows = services.status(state_dir)
    print([(row.name, row.health, os.stat(f"/proc/{row.pid}").st_uid) for row in rows])
finally:
    services.down(state_dir)
"""


UNNAMED = 54_321
"""A bare uid, as containers are given one: no line of /etc/passwd has it."""


@ONLY_LONG
@needs_root
@pytest.mark.parametrize("uid", [UNNAMED, unprivileged.NOBODY][: declared(2, 1)])
def test_everything_runs_as_an_ordinary_user(running: Services, open_folder: Path, uid: int) -> None:
    # The interpreter of the virtual environment may live in root's home; the system's own will do.
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    site = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    if system is None:
        pytest.skip("no interpreter of this version that an ordinary user could reach")
    subprocess.run([system, "-m", "venv", "--without-pip", open_folder / "venv"], check=True)
    packages = next(open_folder.glob("venv/lib/*/site-packages"))
    root = Path(services.__file__).parents[2]
    (packages / "fleet.pth").write_text(f"{site}\n{root}\n", encoding="utf-8")
    state_dir = open_folder / "state"
    state_dir.mkdir()
    os.chown(state_dir, uid, uid)
    shutil.copy(anvil.binary(StateFolder.open(running.state_dir), {}), open_folder / "anvil")
    as_another = [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        str(open_folder / "venv" / "bin" / "python"),
        "-c",
    ]
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "ANVIL_BINARY": str(open_folder / "anvil")}
    reach = subprocess.run(
        [*as_another, "import workers.embedded.services"],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=False,
    )
    if "Permission" in reach.stderr or "ModuleNotFound" in reach.stderr:
        pytest.skip(f"uid {uid} cannot reach the packages: {reach.stderr[-200:]}")
    done = subprocess.run(
        [*as_another, AS_ANOTHER, str(state_dir), str(uid)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [(name, "ok", uid) for name in STORES]
    assert str(expected) in done.stdout
