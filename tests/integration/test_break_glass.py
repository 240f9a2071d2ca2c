"""Break-glass rehearsed end to end: two software devices sign it, the alarms' receiver hears it, one approver is missing
and a release goes out; a veto, and what it never opens (R15). docs/custody/break-glass.md is this, step by step."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from custody.alarms.delivering import deliver
from custody.alarms.webhook import AlarmWebhook
from custody.policy import load_folder
from custody.policy.documents import NO_HASH
from custody.policy.signed_entries import entry_hash
from custody.policy.toml_text import toml_text
from custody.settings.environment import settings
from custody.trezor.derivation import parse_derivation_path
from tests.alarm_receiver import SECRET, AlarmReceiver, running_receiver
from tests.approvals import hand_in_approval, sign_entry
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.policy_files import SELLER, book_said, entry_said, key
from tests.release_scene import UNITS, Scene, approval_scenes, new_seed
from tests.signer_api_server import client_at, client_with_devices, serving
from tests.token_chain import TokenChain
from workers.cli import alarms, break_glass, policy
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice
from workers.embedded.trezor_device.wallet import Wallet
from workers.signer.approving import APPROVAL_PATH, ApproverDesk, approvable_action, approve

Run = Callable[..., Any]
RULES: list[dict[str, Any]] = [
    {
        "name": "known",
        "kind": "recipients",
        "purposes": ["release"],
        "sources": ["address_book"],
        "cool_down_seconds": 0,
    },
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
    yield from approval_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, RULES, ADDRESSES)


@pytest.fixture
def receiver() -> Iterator[AlarmReceiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer(rich_markup_mode="rich")
    break_glass.register(app)
    alarms.register(app)
    policy.register(app)
    monkeypatch.setenv("DATABASE_URL", scene.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def payment(scene: Scene, *, days_old: int = 2, completed: bool = True) -> UUID:
    """A payment in the treasury, to a wallet that was signed so many days ago."""
    made = scene.payment(recipient=None, completed=completed)
    if not completed:
        return made
    seller = scene.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=made)[0].seller_id
    now_made = scene.propose(seller, key(f"wallet of {made}").address)
    entry = now_made.model_copy(update={"added_at": now_made.added_at - timedelta(days=days_old)})
    scene.market.execute(
        "UPDATE fleet.address_book SET added_at = :at, hash = :hash WHERE number = :n",
        at=entry.added_at,
        hash=entry_hash(entry),
        n=entry.number,
    )
    sign_entry(scene.database, entry, "ada", "bob")
    return made


def treasury_of_ten(scene: Scene, *, days_old: int = 2) -> UUID:
    """Ten payments' coins lie in the treasury, so that one is a tenth. Its release lacks the third person."""
    waiting = payment(scene, days_old=days_old)
    for _ in range(9):
        payment(scene, completed=False)
    scene.run()
    scene.approve(waiting, "ada", "bob")
    assert is_held(scene, waiting)
    return waiting


def again(scene: Scene, waiting: UUID) -> str:
    """The worker looks at it; its state."""
    scene.due_now()
    scene.run()
    return scene.instruction(waiting).state


def is_held(scene: Scene, waiting: UUID) -> bool:
    state = again(scene, waiting)
    return state == "awaiting_approval" and "1 more of 3 persons must approve (ada, bob did)" in (
        scene.instruction(waiting).held_reason or ""
    )


def propose(fleet: Run, *more: str) -> UUID:
    answer = fleet("break-glass", "propose", "31337", "usdt", "--by", "mina", "--reason", "cyd is on a plane", *more)
    assert answer.exit_code == 0, answer.output
    return UUID(answer.output.split()[2].rstrip(";"))


def stands(fleet: Run) -> str:
    return json.loads(fleet("break-glass", "status", "--json").output)[0]["stands"]


def sign_on_devices(scene: Scene, tmp_path: Path) -> list[tuple[str, ...]]:
    """Dan and Eva, each at a machine of their own, through the signer API; what their devices showed."""
    verified = load_folder(scene.signed.folder, root=scene.signed.root, now=datetime.now(UTC))
    shown: list[tuple[str, ...]] = []
    with serving(scene.database, devices=scene.devices) as url, client_with_devices(url, tmp_path) as client:
        for person, seed in SEEDS.items():
            with SoftwareDevice(seed) as device:
                desk = ApproverDesk(
                    verified, person, device.path, 10.0, 10**16, passphrase="", lock_folder=tmp_path / "locks"
                )
                [action] = [approvable_action(each, desk) for each in client.actions()]
                approve(
                    client, desk, [action], progress=lambda _said, rows: shown.append(rows), confirm=lambda _rows: True
                )
    scene.run()
    return [rows for rows in shown if rows]


def ten_minutes_later(scene: Scene) -> None:
    """The second signature came in ten minutes ago, in place of waiting for them."""
    scene.market.execute(
        "UPDATE fleet.approvals SET received_at = received_at - interval '10 minutes' WHERE subject_kind = 'operator_action'"
    )


def hear(scene: Scene, receiver: AlarmReceiver) -> list[str]:
    """The alarms' receiver takes what is open; the kinds it has heard of."""
    webhook = AlarmWebhook(receiver.url, SECRET, environment="test")
    while deliver(scene.database.engine("fleet_housekeeping"), webhook, lambda: datetime.now(UTC)):
        pass
    return [alarm["kind"] for request in receiver.came for alarm in request.alarms]


def simulation(scene: Scene, fleet: Run, tmp_path: Path) -> Callable[..., str]:
    """``fleet policy simulate --live`` of a release of 100 that two of three approved; what it says."""
    folder = tmp_path / "copy"
    shutil.copytree(scene.signed.folder, folder)
    known = entry_said(1, NO_HASH, SELLER, "seller-1", chain_id=31337, added_at=datetime(2019, 1, 2, 8, tzinfo=UTC))
    (folder / "address-book.toml").write_text(toml_text(book_said([known])))

    def simulated(*more: str) -> str:
        answer = fleet(
            "policy", "simulate", str(folder), "--genesis-hash", scene.signed.root, "--purpose", "release",
            "--chain", "31337", "--token", scene.chain.token, "--to", SELLER, "--beneficiary", "seller-1",
            "--amount", "100", "--approved", "ada", "--approved", "bob", "--live", *more,
        )  # fmt: skip
        assert answer.exit_code == 0, answer.output
        return answer.output

    return simulated


def later(*, minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def test_the_rehearsal(scene: Scene, receiver: AlarmReceiver, fleet: Run, tmp_path: Path) -> None:
    waiting = treasury_of_ten(scene)
    action = propose(fleet)
    assert stands(fleet) == "waits for two persons' signatures (nobody signed): fleet signer approve"
    shown = sign_on_devices(scene, tmp_path)
    assert len(shown) == 2
    assert [row.strip() for row in shown[0][:2]] == ["POLICY amn1", "break_glass 31337"]
    assert [row.strip() for row in shown[0][5:7]] == ["max 100", "cyd is on a plane"]
    # Signed, but nobody outside has heard of it; a person's word for that does not count.
    assert stands(fleet).startswith("waits for the alarms' receiver to acknowledge its alarm")
    ten_minutes_later(scene)
    assert is_held(scene, waiting)
    [alarm] = [each for each in json.loads(fleet("alarms", "--json").output)["alarms"] if each["kind"] == "break_glass"]
    assert f"to end it: fleet break-glass veto {action}" in alarm["sentence"]
    refused = fleet("alarms", "acknowledge", alarm["id"], "--by", "mina")
    assert (refused.exit_code, "only the alarms' receiver acknowledges it (R15)" in refused.stderr) == (2, True)
    assert is_held(scene, waiting)
    assert {"break_glass_proposed", "break_glass"} <= set(hear(scene, receiver))
    assert stands(fleet).startswith("open since ")
    assert again(scene, waiting) == "handed_out"
    [last] = scene.market.execute(
        "SELECT approvals_required, approved_by FROM fleet.policy_decisions WHERE subject_id = :i ORDER BY id DESC LIMIT 1",
        i=scene.instruction(waiting).id,
    )
    assert (last.approvals_required, last.approved_by) == (2, ["ada", "bob"])
    scene.submit(waiting, scene.sign(waiting))
    scene.run()
    assert scene.paid_to(waiting) == UNITS
    scene.require_books_equal_chain()
    # The tenth is used up, and there is no second one today.
    other = payment(scene)
    scene.run()
    scene.approve(other, "ada", "bob")
    assert is_held(scene, other)
    twice = fleet("break-glass", "propose", "31337", "USDT", "--by", "omid", "--reason", "again")
    assert (twice.exit_code, "once in 24 hours" in twice.stderr) == (2, True)


def test_any_one_guard_vetoes_it_for_good(scene: Scene, receiver: AlarmReceiver, fleet: Run, tmp_path: Path) -> None:
    waiting = treasury_of_ten(scene)
    action = propose(fleet)
    sign_on_devices(scene, tmp_path)
    hear(scene, receiver)
    assert stands(fleet).startswith("opens at ")
    assert is_held(scene, waiting)  # ten minutes are not over
    # A simulation says what it will change, and what it changes now.
    simulated = simulation(scene, fleet, tmp_path)
    assert "break-glass changes nothing: none is open at that moment" in simulated()
    assert "with break-glass: allowed by payouts" in simulated("--at", later(minutes=15))
    ten_minutes_later(scene)
    assert "with break-glass: allowed by payouts" in simulated()
    assert f"break-glass {action} of {scene.chain.token} on chain 31337: open from " in simulated()
    vetoed = fleet("break-glass", "veto", str(action), "--by", "omid")
    assert vetoed.exit_code == 0
    assert stands(fleet).startswith("vetoed by omid at ")
    assert is_held(scene, waiting)
    assert f"break-glass {action} of {scene.chain.token} on chain 31337: vetoed at " in simulated()
    assert "break-glass changes nothing" in simulated()
    twice = fleet("break-glass", "veto", str(action), "--by", "omid")
    assert (twice.exit_code, "there is no break-glass" in twice.stderr) == (2, True)
    assert fleet("break-glass", "status").exit_code == 0
    # Nothing had gone out: another may be proposed.
    assert propose(fleet, "--minutes", "15") != action


@ONLY_LONG
def test_a_wallet_that_is_younger_than_a_day_is_not_paid_by_it(
    scene: Scene, receiver: AlarmReceiver, fleet: Run, tmp_path: Path
) -> None:
    waiting = treasury_of_ten(scene, days_old=0)
    propose(fleet)
    sign_on_devices(scene, tmp_path)
    hear(scene, receiver)
    ten_minutes_later(scene)
    assert stands(fleet).startswith("open since ")
    assert is_held(scene, waiting)


def test_rows_that_say_accepted_over_no_signature_open_nothing(
    scene: Scene, receiver: AlarmReceiver, fleet: Run
) -> None:
    """R9: a database's word that two persons signed is verified each time; so is what they signed."""
    waiting = treasury_of_ten(scene)
    action = propose(fleet)
    [row] = scene.market.execute("SELECT parameter_hash FROM fleet.operator_actions WHERE id = :i", i=action)
    engine = scene.database.engine("fleet_signer_api")
    for person in ("ada", "bob"):
        hand_in_approval(
            engine, "operator_action", action, bytes(row.parameter_hash), "POLICY of something else", person
        )
    scene.market.execute("UPDATE fleet.approvals SET state = 'accepted' WHERE subject_kind = 'operator_action'")
    assert "break_glass" in hear(scene, receiver)
    ten_minutes_later(scene)
    assert stands(fleet).startswith("open since ")
    assert is_held(scene, waiting)


@ONLY_LONG
def test_one_that_has_ended_asks_nobody_for_a_signature(scene: Scene, fleet: Run) -> None:
    treasury_of_ten(scene)
    action = propose(fleet)
    with serving(scene.database) as url, client_at(url) as client:
        assert [each.id for each in client.actions()] == [str(action)]
        scene.market.execute(
            "UPDATE fleet.operator_actions SET parameters = jsonb_set(parameters, '{expires_at}', to_jsonb(now() :: text))"
        )
        assert client.actions() == []
    assert stands(fleet) == "over; it was never open"


def test_what_cannot_be_a_break_glass_is_not_proposed(scene: Scene, fleet: Run) -> None:
    who = ("--by", "mina", "--reason", "cyd is on a plane")
    empty = fleet("break-glass", "propose", "31337", "USDT", *who)
    assert (empty.exit_code, "a tenth of nothing is nothing" in empty.stderr) == (2, True)
    for arguments, expected in (
        (("31337", "DOGE", *who), "chain 31337 has no token DOGE"),
        (("1", "USDT", *who), "chain 1 has no token USDT"),
        (("31337", "USDT", *who, "--minutes", "61"), "minutes: expected 15 to 60"),
        (("31337", "USDT", *who, "--minutes", "14"), "minutes: expected 15 to 60"),
        (("31337", "USDT", "--by", "", "--reason", "x"), "by: expected 1 to 100 characters"),
        (("31337", "USDT", "--by", "x", "--reason", ""), "reason: expected 1 to 500 characters"),
    ):
        refused = fleet("break-glass", "propose", *arguments)
        assert (refused.exit_code, expected in refused.stderr) == (2, True), refused.stderr
    assert "there was no break-glass" in fleet("break-glass", "status").output
