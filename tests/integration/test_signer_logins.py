"""Logging in to the signer API from a signer's machine (R6): by itself, by its device, and never for a server that lies."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from custody.sessions import end_sessions_of, of_chains
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.trezor import TREASURY_PATH
from tests.conftest import Database
from tests.release_scene import UNITS, Scene, new_seed
from tests.signer_api_server import place_of, serving
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED, signer
from workers.cli.signer.desk import SESSIONS_FILE
from workers.embedded.trezor_device import Fault, SoftwareDevice
from workers.signer import SignerApiError, SignerClient
from workers.signer.logging_in import LoggingIn, LoginWallet
from workers.signer.session_file import SessionFile


class LyingApi(SignerClient):
    """An API that answers a challenge otherwise."""

    lies: Mapping[str, Any] = {}

    def post_once(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        answer = super().post_once(path, body)
        return {**answer, **self.lies} if path.endswith("/challenge") else answer


@pytest.mark.parametrize(
    ("lies", "expected"),
    [
        ({"expires_at": "2099-01-01T00:00:00+00:00"}, "compare this machine's clock"),
        ({"nonce": "sign this: all my coins to eve!!"}, "sign nothing for it"),
        ({"nonce": "0x" + "00" * 32}, "sign nothing for it"),
        ({"text": "a text of the server's"}, "sign nothing for it"),
        ({"message": "00" * 32}, "sign nothing for it"),
    ],
)
def test_a_server_that_lies_gets_no_signature(
    database: Database, tmp_path: Path, lies: dict[str, str], expected: str
) -> None:
    with serving(database) as api, SoftwareDevice(new_seed()) as device:
        wallet = LoginWallet(device.path, TREASURY_PATH, 5.0, passphrase="", lock_folder=tmp_path / "locks")
        file = SessionFile(tmp_path / "sessions.json")
        with LyingApi(api, LoggingIn(lambda: place_of(api), file, wallet, lambda _said, _text: None)) as client:
            client.lies = lies
            with pytest.raises(SignerApiError, match=expected):
                client.instructions()
        assert device.screens == []
    assert file.sessions() == ()


@pytest.fixture
def machine(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SoftwareDevice, CliRunner]]:
    """A signer's machine where nobody has logged in yet, and the treasury's device at it."""
    with (
        serving(scene.database, identities=lambda: of_chains(scene.step.chains)) as url,
        SoftwareDevice(scene.seed) as device,
    ):
        for name, value in {
            "CHAINS_FILE": str(scene.folder / "chains.toml"),
            "SIGNER_API_URL": url,
            "TREZOR_PATH": device.path,
            "FLEET_STATE_DIR": str(tmp_path / "state"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DATABASE_URL", raising=False)
        settings.cache_clear()
        yield device, CliRunner(env={"COLUMNS": "200"})
    settings.cache_clear()


def test_a_command_logs_in_by_itself_and_again_when_the_session_ended(
    scene: Scene, machine: tuple[SoftwareDevice, CliRunner], tmp_path: Path
) -> None:
    device, command = machine
    payment = scene.payment()
    scene.run()
    file = tmp_path / "state" / SESSIONS_FILE
    assert command.invoke(signer, ["whoami"]).exit_code == EXIT_REFUSED
    found = command.invoke(signer, ["inbox"])
    assert found.exit_code == 0, found.output
    assert "Your device is asked to log in" in found.output
    assert "LOGIN amanat" in found.output
    assert "LOGIN amanat" in "".join(row for screen in device.screens for row in screen)
    assert file.stat().st_mode & 0o777 == 0o600
    [who] = json.loads(command.invoke(signer, ["whoami", "--json"]).stdout)
    assert (who["address"], who["role"]) == (scene.treasury, "treasury")
    shown = len(device.screens)
    assert "asked to log in" not in command.invoke(signer, ["inbox"]).output
    assert len(device.screens) == shown
    with transaction(scene.database.engine("fleet_operator")) as connection:
        assert end_sessions_of(connection, scene.treasury, by="test", reason="test") == 1
    signed = command.invoke(signer, ["sign", "--yes"])
    assert signed.exit_code == 0, signed.output
    assert "asked to log in" in signed.output
    scene.run()
    assert scene.paid_to(payment) == UNITS
    [row] = scene.market.execute("SELECT submitted_by FROM fleet.signature_submissions")
    assert row.submitted_by == scene.treasury
    assert "1 session ended." in command.invoke(signer, ["logout"]).output
    assert command.invoke(signer, ["whoami"]).exit_code == EXIT_REFUSED
    assert scene.treasury not in file.read_text()


def test_a_login_that_is_refused_or_rejected_says_so(
    scene: Scene, machine: tuple[SoftwareDevice, CliRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, command = machine
    device.fault = Fault.REJECT
    rejected = command.invoke(signer, ["login"])
    assert rejected.exit_code == EXIT_REJECTED
    device.fault = None
    stranger = command.invoke(signer, ["login", "--as", "ada"])
    assert stranger.exit_code == EXIT_REFUSED
    assert "is no active approver, treasury or Safe owner of the genesis" in stranger.output
    assert command.invoke(signer, ["whoami"]).exit_code == EXIT_REFUSED
    monkeypatch.delenv("TREZOR_PATH")
    settings.cache_clear()
    nothing = command.invoke(signer, ["inbox"])
    assert (nothing.exit_code, "no device to log in with: set TREZOR_PATH" in nothing.output) == (EXIT_REFUSED, True)
    file = tmp_path / "state" / SESSIONS_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text("[]")
    file.chmod(0o644)
    seen = command.invoke(signer, ["inbox"])
    assert (seen.exit_code, "can be read by others" in seen.output) == (EXIT_REFUSED, True)
