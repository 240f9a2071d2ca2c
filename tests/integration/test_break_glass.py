"""Break-glass rehearsed end to end: two software devices sign it, the alarms' receiver hears it, one approver is missing
and a release goes out; a veto, and what it never opens (R15). docs/custody/break-glass.md is this, step by step."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from custody.alarms.delivering import deliver
from custody.alarms.webhook import AlarmWebhook
from custody.policy import load_folder
from custody.policy.operator_actions import SignableAction
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.trezor.derivation import parse_derivation_path
from tests.alarm_receiver import SECRET, AlarmReceiver, running_receiver
from tests.approvals import hand_in_approval
from tests.conftest import Database
from tests.release_scene import UNITS, Scene, TokenChain, approval_scenes, new_seed
from tests.signer_api_server import TOKEN, serving
from workers.cli import alarms, break_glass
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice
from workers.embedded.trezor_device.wallet import Wallet
from workers.signer import SignerClient
from workers.signer.approving import APPROVAL_PATH, ApproverDesk, approve_open

Run = Callable[..., Any]
RULES: list[dict[str, Any]] = [
    {"name": "known", "kind": "recipients", "purposes": ["release"], "sources": ["address_book"], "cool_down_seconds": 0},
    {"name": "three-persons", "kind": "approvals", "purposes": ["release"], "tiers": [{"from": "0", "k": 3}]},
    {"name": "payouts", "kind": "allow", "purposes": ["release"]},
]
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
        token_chain, database, services.mongo_url, mongo_database, tmp_path, RULES, ADDRESSES
    )


@pytest.fixture
def receiver() -> Iterator[AlarmReceiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer(rich_markup_mode="rich")
    break_glass.register(app)
    alarms.register(app)
    monkeypatch.setenv("DATABASE_URL", scene.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def treasury_of_ten(scene: Scene, *, days_old: int = 2) -> UUID:
    """Ten payments' coins lie in the treasury, so that one payment is a tenth; its release waits for three persons."""
    waiting = scene.payment()
    for _ in range(9):
        scene.payment(completed=False)
    # The wallet was signed a while ago: the book's entries are as old as their rows say, under the same signatures' hash.
    age_wallets(scene, days_old)
    scene.run()
    return waiting


def age_wallets(scene: Scene, days: int) -> None:
    """Later, as the database's clock and the files' are the same: what was proposed before is older by days."""
    scene.clock_days = days  # pyright: ignore[reportAttributeAccessIssue]


def propose(fleet: Run) -> UUID:
    answer = fleet("break-glass", "propose", "31337", "USDT", "--by", "mina", "--reason", "cyd is on a plane")
    assert answer.exit_code == 0, answer.output
    return UUID(answer.output.split()[2].rstrip(";"))


def status(fleet: Run) -> dict[str, Any]:
    return json.loads(fleet("break-glass", "status", "--json").output)[0]


def sign_on_devices(scene: Scene, tmp_path: Path) -> None:
    """Dan and Eva each at a machine of their own, through the signer API."""
    verified = load_folder(scene.signed.folder, root=scene.signed.root, now=datetime.now(UTC))
    with serving(scene.database) as url, SignerClient(url, TOKEN) as client:
        for person, seed in SEEDS.items():
            with SoftwareDevice(seed) as device:
                desk = ApproverDesk(
                    verified, person, device.path, 10.0, 10**16, passphrase="", lock_folder=tmp_path / "locks"
                )
                approve_open(client, desk)
    scene.run()
