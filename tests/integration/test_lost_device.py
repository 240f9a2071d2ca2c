"""The ceremony of docs/custody/lost-device.md, on software devices: revoked at once, and the fleet goes on without it (R3, R22)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.policy import Genesis, PolicyRefused, load_folder, read_genesis
from custody.policy.documents import read_toml
from custody.policy.verified import GENESIS_FILE
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.trezor.derivation import parse_derivation_path
from tests.conftest import Database
from tests.integration.conftest import APPROVED_RULES
from tests.policy_files import Fleet, approver, genesis_file, genesis_said, key, policy_file, policy_said, write_signed
from tests.release_scene import Scene, approval_scenes, new_seed
from tests.token_chain import TokenChain
from workers.cli import device_lost, genesis, policy
from workers.cli.signer import signer
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice
from workers.embedded.trezor_device.wallet import Wallet
from workers.signer.approving import APPROVAL_PATH

SEEDS = {"dan": new_seed(), "eva": new_seed()}
ADDRESSES = {
    person: Wallet(seed).private_key(parse_derivation_path(APPROVAL_PATH)).public_key.to_checksum_address()
    for person, seed in SEEDS.items()
}


@pytest.fixture
def scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[Scene]:
    yield from approval_scenes(
        token_chain, database, services.mongo_url, mongo_database, tmp_path, APPROVED_RULES, ADDRESSES
    )


@pytest.fixture
def fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("DATABASE_URL", scene.database.url("fleet_operator"))
    monkeypatch.setenv("POLICY_DIR", str(scene.signed.folder))
    settings.cache_clear()
    app = typer.Typer()
    device_lost.register(app)
    app.add_typer(signer, name="signer")
    policy.register(app)
    genesis.register(app)
    yield app
    settings.cache_clear()


def run(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))


def sign(app: typer.Typer, path: Path, by: Path, person: str) -> None:
    with SoftwareDevice(SEEDS[person]) as device:
        said = run(app, "policy", "sign", str(path), "--genesis", str(by), "--as", person, "--device", device.path)
    assert said.exit_code == 0, said.output


def test_the_ceremony_is_rehearsed(scene: Scene, fleet: typer.Typer) -> None:
    folder, root = scene.signed.folder, scene.signed.root
    first, second = scene.payment(), scene.payment()
    scene.run()
    for payment in (first, second):
        scene.approve(payment, "ada", "bob")
    scene.run()
    handed_out = scene.handed_out([first, second])
    waiting = second if handed_out == first else first
    # bob's device is gone: a draft, which nothing believes yet.
    said = run(fleet, "signer", "device", "lost", "bob")
    assert said.exit_code == 0, said.output
    assert "bob approves no more once 2 sign it" in said.output
    # Logging in ends at once, before anybody has signed.
    assert f"{key('bob').address} logs in at the signer API no more" in said.output
    assert [each.address for each in scene.market.execute("SELECT address FROM fleet.barred_signers")] == [
        key("bob").address
    ]
    with pytest.raises(PolicyRefused, match="expected 2 approvers of genesis version 1, nobody signed"):
        load_folder(folder, root=root, now=datetime.now(UTC))
    again = run(fleet, "signer", "device", "lost", "ada")
    assert (again.exit_code, "finish that draft" in again.output) == (2, True)
    # The others sign genesis and policy on their devices.
    for person in ("dan", "eva"):
        sign(fleet, folder / GENESIS_FILE, folder / "history" / "genesis-1.toml", person)
        sign(fleet, folder / "policy.toml", folder / GENESIS_FILE, person)
    newest = newest_genesis(scene)
    assert {each.person for each in newest.active_approvers("policy", datetime.now(UTC))} == {
        "ada",
        "cyd",
        "dan",
        "eva",
    }
    # What bob had approved is asked again; the sellers' entries that he signed stand, vouched for by the new genesis.
    scene.submit(handed_out, scene.sign(handed_out))
    scene.due_now()
    scene.run()
    assert scene.instruction(waiting).state == "awaiting_approval"
    assert "(ada did)" in scene.instruction(waiting).held_reason
    scene.approve(waiting, "cyd")
    scene.run()
    assert scene.instruction(waiting).state == "handed_out"


def newest_genesis(scene: Scene) -> Genesis:
    with transaction(scene.database.engine("fleet_releases")) as connection:
        return read_genesis(connection, scene.signed, datetime.now(UTC)).genesis


def test_too_few_would_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k of 2 needs two: the last but one cannot go without another one coming."""
    said = genesis_said(approvers=[approver("ada"), approver("bob")])
    root = Fleet(said).genesis().root
    write_signed(tmp_path / "genesis.toml", genesis_file(said))
    write_signed(tmp_path / "policy.toml", policy_file(policy_said(root)))
    before = (tmp_path / "genesis.toml").read_bytes()
    monkeypatch.delenv("DATABASE_URL", raising=False)
    settings.cache_clear()
    app = typer.Typer()
    device_lost.register(app)
    app.add_typer(signer, name="signer")
    refused = run(app, "signer", "device", "lost", "bob", "--folder", str(tmp_path))
    assert (refused.exit_code, "k: expected at most 1" in refused.output) == (2, True)
    assert (tmp_path / "genesis.toml").read_bytes() == before
    nobody = run(app, "signer", "device", "lost", "eve", "--folder", str(tmp_path))
    assert (nobody.exit_code, "expected an active approver 'eve'" in nobody.output) == (2, True)
    assert read_toml(tmp_path / "genesis.toml")["version"] == 1
    settings.cache_clear()
