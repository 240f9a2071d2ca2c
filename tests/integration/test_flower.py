"""Flower behind a password, read-only, with every queue from the first second."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from custody.settings.environment import SettingsError, load_settings
from tests.fleet_process import FleetProcess, wait_for
from tests.valkey_server import ValkeyServer
from workers.embedded.ports import is_free
from workers.flower import environment
from workers.queues import QUEUES

USER, PASSWORD = "operator", "only-of-this-test"


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FleetProcess]]:
    folder = tmp_path_factory.mktemp("flower")
    valkey = ValkeyServer(folder)
    valkey.start()
    credentials = folder / "credentials"
    credentials.write_text(f"{USER}:{PASSWORD}\n")
    credentials.chmod(0o600)
    port = next(port for port in range(19_000, 19_999) if is_free(port))
    process = FleetProcess(
        ["-m", "workers.flower"],
        {
            "BROKER_URL": valkey.process_url("flower"),
            "FLEET_STATE_DIR": str(folder),
            "FLOWER_PORT": str(port),
            "FLOWER_BASIC_AUTH_FILE": str(credentials),
        },
        folder / "flower.log",
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.process.poll() is None, process.log.read_text()
        try:
            return httpx.get(f"{url}/healthcheck", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(answers)
    yield url, process
    process.kill()
    assert valkey.denied() == []  # R24
    valkey.stop()


def test_it_shows_every_queue_before_any_worker_runs(flower: tuple[str, FleetProcess]) -> None:
    url, _ = flower
    with httpx.Client(base_url=url, auth=(USER, PASSWORD), trust_env=False) as client:
        shown = client.get("/api/queues/length").raise_for_status().json()["active_queues"]
        page = client.get("/broker").raise_for_status().text
    assert {queue["name"] for queue in shown} == {spec.name for spec in QUEUES}
    assert all(spec.name in page for spec in QUEUES)


@pytest.mark.parametrize("auth", [None, (USER, "wrong")])
def test_without_the_password_it_shows_nothing(flower: tuple[str, FleetProcess], auth: tuple[str, str] | None) -> None:
    with httpx.Client(base_url=flower[0], auth=auth, trust_env=False) as client:
        for path in ("/", "/broker", "/workers", "/api/queues/length", "/api/tasks"):
            assert client.get(path).status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/api/task/async-apply/releases.advance",
        "/api/task/send-task/releases.advance",
        "/api/task/revoke/1",
        "/api/worker/shutdown/mirror@x",
    ],
)
def test_it_steers_nothing_even_with_the_password(flower: tuple[str, FleetProcess], path: str) -> None:
    with httpx.Client(base_url=flower[0], auth=(USER, PASSWORD), trust_env=False) as client:
        assert client.post(path, json={"args": []}).status_code in {403, 404, 405}
        assert all(queue["messages"] == 0 for queue in client.get("/api/queues/length").json()["active_queues"])


def test_its_password_is_on_no_command_line(flower: tuple[str, FleetProcess]) -> None:
    arguments = Path(f"/proc/{flower[1].process.pid}/cmdline").read_bytes()
    assert PASSWORD.encode() not in arguments
    assert PASSWORD not in flower[1].log.read_text()


@pytest.mark.parametrize("content", ["no-colon", ":no-user", "no-password:", "a:b,c:d", "a:b\nc:d"])
def test_a_wrong_password_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH_FILE"):
        environment(load_settings(flower_basic_auth_file=path))
