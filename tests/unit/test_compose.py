"""docker-compose.yml is the fleet that ``fleet up`` runs: its commands exist, its variables are known settings."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from custody.settings.environment import FleetSettings
from custody.store.roles import PROCESS_ROLES
from workers import processes

FILE = Path(__file__).parents[2] / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SETTINGS = set(FleetSettings.model_fields)
SERVERS = {"postgres", "valkey", "mongo"}
NOT_SETTINGS = {"FLEET_SECRETS_DIR", "FLEET_ENV_FILE"}
EXAMPLES = {"SIGNER_API_PUBLIC_HOST": "signers.example:443"}
OURS = sorted(set(SERVICES) - SERVERS)


def test_it_has_every_process_of_the_fleet_and_the_three_servers() -> None:
    assert set(OURS) == {process.name for process in processes.PROCESSES} | {"migrate"}
    assert set(SERVICES) >= SERVERS


@pytest.mark.parametrize("process", processes.PROCESSES, ids=lambda process: process.name)
def test_each_command_is_the_process_table_s_and_exists(process: processes.Process) -> None:
    assert SERVICES[process.name]["command"] == ["python", *process.arguments]
    assert process.arguments[0] == "-m"
    assert importlib.util.find_spec(process.arguments[1]) is not None


def test_the_migration_is_a_command_of_fleet() -> None:
    from typer.main import get_command

    from workers.cli import app, database

    database.register(app)
    command: Any = get_command(app)
    program, *words = SERVICES["migrate"]["command"]
    assert program == "fleet"
    for word in words:
        command = command.commands[word]


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_a_known_setting(name: str) -> None:
    environment: dict[str, Any] = SERVICES[name]["environment"]
    assert {variable for variable in environment if variable.lower() not in SETTINGS} <= NOT_SETTINGS
    for variable, value in environment.items():
        assert not variable.endswith(("_URL", "_KEY", "_DSN")), f"{variable} is a secret: by file"
        assert "PASSWORD" not in str(value).upper()
        # Compose refuses to start without a variable that is required so.
        given = EXAMPLES.get(variable, "0" * 64) if str(value).startswith(f"${{{variable}:?") else value
        FleetSettings.model_validate({variable.lower(): given})


@pytest.mark.parametrize("process", processes.PROCESSES, ids=lambda process: process.name)
def test_each_process_is_given_its_own_secrets_and_no_other(process: processes.Process) -> None:
    service = SERVICES[process.name]
    mounted = {secret["target"]: secret["source"] for secret in service["secrets"]}
    by_file = {name for name in mounted if name in SETTINGS}
    by_path = {
        name.lower()
        for name, value in service["environment"].items()
        if str(value).removeprefix("/run/secrets/") in mounted
    }
    assert set(process.settings()) - set(process.may_have) <= by_file | by_path <= set(process.settings())
    assert len(mounted) == len(by_file | by_path)
    if process.role is not None:
        assert mounted["database_url"] == f"database_url_{process.role.removeprefix('fleet_')}"
    if "broker_url" in process.needs:
        assert mounted["broker_url"] == f"broker_url_{process.name.replace('-', '_')}"


def test_every_secret_is_a_file_and_every_one_is_used() -> None:
    used: set[str] = set()
    for service in SERVICES.values():
        used |= {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    assert {f"role_{role}" for role in PROCESS_ROLES} <= used


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_kept_running_checked_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert int(service["stop_grace_period"].removesuffix("s")) >= 60
    if name == "migrate":
        assert service["restart"] == "no"
        return
    assert service["restart"] == "always"
    check: list[str] = service["healthcheck"]["test"]
    if name in SERVERS:
        return
    process = processes.process(name)
    assert int(service["stop_grace_period"].removesuffix("s")) > process.stop_seconds
    what = process.name
    if process.health is not None and process.port_setting is not None:
        port = service["environment"][process.port_setting.upper()]
        what = f"http://127.0.0.1:{port}{process.health}"
    assert check == ["CMD", "python", "-m", "workers.health", what]


def test_doors_are_published_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == set(processes.PORTS)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
