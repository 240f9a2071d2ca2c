"""A signer's own machine in tests: its settings, and the command in this process or in one of its own."""

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from custody.settings.environment import settings
from custody.trezor.derivation import SAFE_OWNER_PATH
from tests.signer_api_server import kept
from tests.signer_scene import SignerScene
from workers.cli.signer import signer
from workers.cli.signer.desk import SESSIONS_FILE
from workers.signer.session_file import SessionFile

Cli = Callable[..., Result]
JOURNAL = "journal.jsonl"


def desk_environment(scene: SignerScene, device_path: str, api: str) -> dict[str, str]:
    """The settings of a signer's machine, who has logged in there: no database among them."""
    state = scene.folder / "state"
    sessions = SessionFile(state / SESSIONS_FILE)
    sessions.put(kept(api, scene.treasury))
    for owner in getattr(scene, "owners", ()):
        sessions.put(kept(api, owner.address, SAFE_OWNER_PATH))
    return {
        "CHAINS_FILE": str(scene.folder / "chains.toml"),
        "SIGNER_API_URL": api,
        "TREZOR_PATH": device_path,
        "SIGNER_TRUST_FILE": str(scene.write_trust()),
        "SIGNER_JOURNAL_FILE": str(journal_of(scene)),
        "FLEET_STATE_DIR": str(state),
    }


def journal_of(scene: SignerScene) -> Path:
    return scene.folder / JOURNAL


@contextmanager
def at_desk(scene: SignerScene, device_path: str, api: str, monkeypatch: pytest.MonkeyPatch) -> Generator[Cli]:
    """``fleet signer`` in this process; a wide terminal, so that sentences are not broken."""
    for name, value in desk_environment(scene, device_path, api).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    settings.cache_clear()
    runner = CliRunner(env={"COLUMNS": "200"})
    yield lambda *arguments, **more: runner.invoke(signer, list(arguments), **more)
    settings.cache_clear()


def start_signer(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """``fleet signer`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "signer", *arguments],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(result: Result) -> str:
    """What a command printed, in one line."""
    return " ".join(result.output.split())
