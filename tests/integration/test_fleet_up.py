"""``fleet up --services-only`` and ``fleet status`` with servers that run already."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database
from tests.counts import ONLY_LONG, sampled
from tests.state_folders import share_packages
from workers.embedded import services as embedded
from workers.embedded.postgres import maintenance_url
from workers.embedded.role_passwords import ensure_role_passwords
from workers.embedded.services import Services


@pytest.fixture
def folder(tmp_path: Path, role_passwords: Path) -> Iterator[Path]:
    """A new state folder with this server's role passwords: login roles belong to a server, not to a database."""
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    share_packages(made)
    shutil.copytree(role_passwords, ensure_role_passwords(made), dirs_exist_ok=True)
    yield made
    embedded.down(made)


def fleet(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env={name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        | {"FLEET_STATE_DIR": str(folder), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@ONLY_LONG
def test_servers_named_in_a_settings_file_are_used_and_none_is_started(
    services: Services, database: Database, folder: Path, tmp_path: Path
) -> None:
    given = services.settings() | {"DATABASE_ADMIN_URL": database.url()}
    named = tmp_path / "settings.env"
    named.write_text("".join(f'{name}="{value}"\n' for name, value in given.items()))
    up = fleet(folder, "up", "--services-only", FLEET_ENV_FILE=str(named))
    assert up.returncode == 0, up.stderr
    # Another shell knows nothing of that file.
    status = fleet(folder, "status", "--json")
    assert status.returncode == 0, status.stdout
    rows = json.loads(status.stdout)["services"]
    assert [(row["name"], row["pid"], row["health"]) for row in rows] == [
        (name, None, "ok") for name in ("postgres", "valkey", "mongo", "anvil")
    ]
    assert rows[0]["url"].endswith(database.name)
    hidden = {urlsplit(url).password for url in given.values()} - {None}
    assert hidden
    assert not any(str(secret) in up.stdout + status.stdout for secret in hidden)
    # The operator's commands work from here on, on that database.
    shown = fleet(folder, "settings", "show")
    assert shown.returncode == 0, shown.stderr


@ONLY_LONG
@pytest.mark.parametrize(
    ("name", "value", "words"),
    sampled(
        [
            ("CHAIN_RPC_URL", "http://127.0.0.1:1/hush", "CHAIN_RPC_URL names http://127.0.0.1:1/***"),
            ("BROKER_URL", "kafka://:hush@127.0.0.1:1", "BROKER_URL is wrong: expected redis://"),
            ("CHAIN_RPC_URL", "127.0.0.1:8545", "CHAIN_RPC_URL is wrong: expected http://"),
        ]
    ),
)
def test_a_server_that_cannot_be_used_is_named(
    services: Services, database: Database, folder: Path, name: str, value: str, words: str
) -> None:
    given = services.settings() | {"DATABASE_ADMIN_URL": database.url(), name: value}
    up = fleet(folder, "up", "--services-only", **given)
    assert up.returncode == 2
    assert words in up.stderr
    assert "hush" not in up.stderr
    assert "Traceback" not in up.stderr


def test_a_fleet_that_was_never_started_says_how_to_start_it(tmp_path: Path) -> None:
    status = fleet(tmp_path / "state", "status", "--json")
    assert status.returncode == 1
    assert {row["health"] for row in json.loads(status.stdout)["services"]} == {"not started; run `fleet up`"}


@ONLY_LONG
def test_db_upgrade_makes_an_empty_database_ready_and_may_be_repeated(
    services: Services, role_passwords: Path, folder: Path
) -> None:
    name = f"test_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(services.database_admin_url)._replace(path=f"/{name}"))
    with psycopg.connect(maintenance_url(services.database_admin_url), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            for _ in range(2):
                given = {"DATABASE_ADMIN_URL": url, "DATABASE_ROLE_PASSWORDS_DIR": str(role_passwords)}
                upgraded = fleet(folder, "db", "upgrade", **given)
                assert upgraded.returncode == 0, upgraded.stderr
            with psycopg.connect(url) as connection:
                rows = connection.execute("SELECT count(*) FROM fleet.posting_rules").fetchone()
            assert rows is not None
            assert rows[0] > 0
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    lacking = fleet(folder, "db", "upgrade")
    assert lacking.returncode == 2
    assert "DATABASE_ADMIN_URL is not set" in lacking.stderr
