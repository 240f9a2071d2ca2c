"""The ceremony of docs/custody/treasury-rotation.md on software devices, by its commands, with money in flight (R22)."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.chain import erc20
from custody.policy.verified import GENESIS_FILE
from custody.safe import SafeTransaction
from custody.settings.environment import settings
from custody.trezor import TREASURY_PATH, UnsignedTransaction, open_device
from custody.trezor.derivation import parse_derivation_path
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.integration.test_treasury_rotation import in_every_state
from tests.release_scene import AMOUNT, UNITS, new_seed
from tests.rotation_scene import RULES, RotationScene
from tests.safe_scene import owner_of_seed
from tests.safe_world import OwnedSafe, sign_hash
from tests.token_chain import TokenChain
from workers.cli import genesis, policy, releases, treasury
from workers.demo.development_chain import ETHER
from workers.demo.safe_contracts import SafeContracts
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
) -> Iterator[RotationScene]:
    made = RotationScene(token_chain, database, services.mongo_url, mongo_database, tmp_path, RULES, ADDRESSES)
    yield made
    made.close()


@pytest.fixture
def fleet(scene: RotationScene, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("DATABASE_URL", scene.database.url("fleet_operator"))
    monkeypatch.setenv("POLICY_DIR", str(scene.signed.folder))
    monkeypatch.setenv("CHAINS_FILE", str(scene.folder / "chains.toml"))
    settings.cache_clear()
    app = typer.Typer()
    treasury.register(app)
    releases.register(app)
    policy.register(app)
    genesis.register(app)
    yield app
    settings.cache_clear()


def run(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, list(arguments))


def done(app: typer.Typer, *arguments: str) -> str:
    result = run(app, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(app: typer.Typer, *arguments: str) -> str:
    result = run(app, *arguments)
    assert result.exit_code == 2, result.output
    return result.output


def standing(app: typer.Typer, address: str) -> dict[str, Any]:
    found = json.loads(run(app, "treasury", "status", "31337", "--json").output)
    return next(each for each in found if each["address"] == address)


def draft_and_sign(scene: RotationScene, app: typer.Typer, *arguments: str) -> str:
    """The next genesis is drafted by the command and signed by two approvers on their devices, as it says."""
    said = done(app, "treasury", "rotate", "31337", *arguments)
    path = scene.signed.folder / GENESIS_FILE
    [line] = [each.split() for each in said.splitlines() if "fleet policy sign" in each]
    for person, seed in SEEDS.items():
        with SoftwareDevice(seed) as device:
            told = {"PERSON": person, "PATH": device.path}
            done(app, *[told.get(each, each) for each in line[1:]])
    assert str(path) in line
    return said


def chains_lines(said: str) -> str:
    """What the command prints for the chains file."""
    lines = said.split("on every machine")[1].splitlines()[1:]
    return "\n".join(each[2:] for each in lines if each.startswith("  "))


def install(scene: RotationScene, said: str, treasury_now: str, former: dict[str, Any]) -> None:
    """The chains file gets the printed lines, and the worker is started anew."""
    path = scene.folder / "chains.toml"
    scene.treasury, scene.former = treasury_now, former
    path.write_text(scene.chains_file_with(chains_lines(said)))
    scene.restart()


def sign_on_devices(scene: RotationScene) -> list[str]:
    """Whatever is handed out is signed on its treasury's own device, until nothing is; the purposes in their order."""
    signed: list[str] = []
    devices: dict[str, Any] = {}
    try:
        for _ in range(30):
            scene.due_now()
            scene.run()
            waiting = scene.waiting()
            if not waiting:
                return signed
            for each in waiting:
                if each.treasury not in devices:
                    devices[each.treasury] = SoftwareDevice(scene.seeds[each.treasury]).__enter__()
                with open_device(
                    devices[each.treasury].path,
                    expected_address=each.treasury,
                    derivation_path=TREASURY_PATH,
                    passphrase="",
                ) as opened:
                    unsigned = UnsignedTransaction.from_signing_bytes(bytes(each.unsigned_bytes))
                    scene.hand_in(each.id, opened.sign_transaction(unsigned))
                signed.append(each.purpose)
    finally:
        for device in devices.values():
            device.__exit__(None, None, None)
    raise AssertionError("the signers are never done")


def test_a_treasury_is_rotated_in_peace(scene: RotationScene, fleet: typer.Typer) -> None:
    flying = in_every_state(scene)
    old, new = scene.treasury, scene.make_next()
    assert "No rotation is under way" in done(fleet, "treasury", "rotate", "31337")
    assert "0 former treasuries" in refused(fleet, "treasury", "rotate", "31337", "--drain")
    said = draft_and_sign(scene, fleet, "--to", new, "--device-fingerprint", "0b1c2d3e")
    # Between the signed files and the chains file nothing new goes out.
    scene.run()
    assert scene.instruction(flying["ready"]).state == "ready"
    scene.fund_house(new)
    install(scene, said, new, {old: "draining"})
    assert standing(fleet, old)["state"] == "draining"
    assert "instruction(s) are open" in str(standing(fleet, old)["why_not_retired"])
    assert "is not empty" in refused(fleet, "treasury", "rotate", "31337", "--retire")
    # Open ones finish, and the rest is moved once that is ordered.
    scene.approve_all("ada", "cyd")
    assert sign_on_devices(scene) == ["release"] * 3
    [lying] = [each for each in standing(fleet, old)["lying"] if not each["house"]]
    assert lying == {"token": scene.chain.token, "symbol": "USDT", "amount": "100", "house": False}
    assert "100 USDT of payments lie there" in refused(fleet, "treasury", "rotate", "31337", "--retire")
    done(fleet, "treasury", "rotate", "31337", "--drain", "--by", "mina")
    scene.approve_all("ada", "cyd")
    assert "drain" in done(fleet, "treasury", "rotate", "31337")
    assert sign_on_devices(scene) == ["drain"]
    scene.require_books_equal_chain()
    assert (scene.lying_at(old), scene.lying_at(new)) == (0, AMOUNT)
    # The house's own coins, which paid for it, go last; the device is shown the same words.
    assert "the move of the house's own coins, the last one" in standing(fleet, old)["waits_for"]
    assert "1 instruction(s) are open" in refused(fleet, "treasury", "rotate", "31337", "--retire")
    assert scene.approve_all("ada", "cyd") == [None]
    shown = done(fleet, "releases", "show", str(scene.house_drains(old)[0].id))
    assert "the house's own coins" in shown
    assert sign_on_devices(scene) == ["drain"]
    [dust] = [Decimal(each["amount"]) for each in standing(fleet, old)["lying"]]
    assert 0 < dust * ETHER < scene.settings.release_max_total_fee_wei
    scene.require_books_equal_chain()
    assert standing(fleet, old)["waits_for"] == ["nothing: fleet treasury rotate 31337 --retire"]
    said = draft_and_sign(scene, fleet, "--retire")
    install(scene, said, new, {old: "retired"})
    assert standing(fleet, old)["state"] == "retired"
    # What was moved is paid from the new treasury.
    scene.set_request(flying["not_due"], "completed")
    scene.approve_all("ada", "cyd")
    assert sign_on_devices(scene) == ["release"]
    assert scene.paid_to(flying["not_due"]) == UNITS
    scene.require_books_equal_chain()
    # It never comes back, and nobody clears it.
    assert "former" in refused(fleet, "treasury", "rotate", "31337", "--to", old, "--device-fingerprint", "0b1c2d3e")


def test_an_account_is_left_for_a_safe_that_its_owners_sign_for(
    scene: RotationScene, fleet: typer.Typer, contracts: SafeContracts
) -> None:
    """The fleet knows the Safe by the genesis that two approvers signed, and by nothing else (R8, R16)."""
    due, later = scene.payment(), scene.payment(completed=False)
    scene.run()
    old = scene.treasury
    safe = OwnedSafe.make(scene.chain.deployer, contracts, [owner_of_seed(new_seed()) for _ in range(3)])
    assert "there is no contract at" in refused(fleet, "treasury", "rotate", "31337", "--to", old, "--safe")
    said = draft_and_sign(scene, fleet, "--to", safe.address, "--safe")
    assert all(owner.address in chains_lines(said) for owner in safe.owners)
    scene.chain.development.set_balance(safe.address, 10 * ETHER)
    scene.fund_house(safe.address)
    scene.use_release_payer()
    install(scene, said, safe.address, {old: "draining"})
    done(fleet, "treasury", "rotate", "31337", "--drain", "--by", "mina")
    for _ in range(2):  # the sellers' coins, then the house's
        scene.approve_all("ada", "cyd")
        sign_on_devices(scene)
    assert scene.paid_to(due) == UNITS
    assert (scene.lying_at(old), scene.lying_at(safe.address)) == (0, AMOUNT)
    scene.require_books_equal_chain()
    said = draft_and_sign(scene, fleet, "--retire")
    install(scene, said, safe.address, {old: "retired"})
    scene.set_request(later, "completed")
    scene.approve_all("ada", "cyd")
    scene.due_now()
    scene.run()
    given = scene.instruction(later)
    assert (given.treasury, given.unsigned_kind, given.state) == (safe.address, "safe_transaction", "handed_out")
    digest = SafeTransaction.from_stored_bytes(bytes(given.unsigned_bytes)).hash()
    scene.hand_in(given.id, sign_hash(safe.owners[0], digest))
    scene.due_now()
    scene.run()
    assert scene.paid_to(later) == 0
    scene.hand_in(given.id, sign_hash(safe.owners[2], digest))
    scene.due_now()
    scene.run()
    assert scene.paid_to(later) == UNITS
    scene.require_books_equal_chain()
    safe.close()


@ONLY_LONG
def test_late_coins_at_a_retired_treasury_are_moved_all_the_same(scene: RotationScene, fleet: typer.Typer) -> None:
    """The chain knows more than the books; and a retired one whose coins come late is emptied like a compromised one."""
    late = scene.payment(swept=False)
    old = scene.rotate()
    scene.chain.deployer.wait(scene.chain.deployer.send(scene.chain.token, erc20.encode_transfer(old, UNITS)))
    assert "the chain shows 100000000 units of USDT" in refused(fleet, "treasury", "rotate", "31337", "--retire")
    scene.book_sweep(late, old)
    scene.mark(old, "retired")
    scene.run()
    assert scene.instruction(late) is None
    assert "--compromised" in str(standing(fleet, old)["waits_for"])
    said = draft_and_sign(scene, fleet, "--compromised", "--old", old)
    install(scene, said, scene.treasury, {old: "compromised"})
    scene.approve_all("ada", "cyd")
    assert sign_on_devices(scene) == ["drain"]
    assert scene.lying_at(old) == 0
    assert {*scene.approve_all("ada", "cyd")} == {late, None}
    assert sorted(sign_on_devices(scene)) == ["drain", "release"]
    scene.require_books_equal_chain()


@ONLY_LONG
def test_somebody_else_may_sign_for_it(scene: RotationScene, fleet: typer.Typer) -> None:
    flying = in_every_state(scene)
    old, new = scene.treasury, scene.make_next()
    said = draft_and_sign(scene, fleet, "--to", new, "--device-fingerprint", "0b1c2d3e", "--compromised")
    assert "at once: fleet pause 31337" in said
    scene.fund_house(new)
    install(scene, said, new, {old: "compromised"})
    scene.run()
    status = run(fleet, "treasury", "status", "31337")
    assert status.exit_code == 1
    assert "compromised" in status.output
    # A device had one already: only its nonce ends it (R1), and the moves come after it.
    given = scene.of(flying["handed_out"], "release")[0]
    assert standing(fleet, old)["waits_for"][0].endswith(f"fleet releases cancel {given.id}")
    done(fleet, "releases", "cancel", str(given.id), "--reason", "its treasury is compromised", "--by", "mina")
    assert sign_on_devices(scene) == ["cancel"]
    assert scene.of(flying["handed_out"], "release")[0].state == "cancelled"
    assert {*scene.approve_all("ada", "cyd")} == {*flying.values()}
    assert sign_on_devices(scene) == ["drain"] * 4
    scene.require_books_equal_chain()
    assert scene.lying_at(old) == 0
    assert run(fleet, "treasury", "status", "31337").exit_code == 1  # the house's own coins are there yet
    assert {*scene.approve_all("ada", "cyd")} == {flying["ready"], flying["asked"], None}
    assert sorted(sign_on_devices(scene)) == ["drain", "release", "release"]
    assert run(fleet, "treasury", "status", "31337").exit_code == 0
    assert [scene.paid_to(flying[each]) for each in ("ready", "asked")] == [UNITS] * 2
    said = draft_and_sign(scene, fleet, "--retire")
    install(scene, said, new, {old: "retired"})
    scene.require_books_equal_chain()


def test_options_that_do_not_go_together_are_refused(scene: RotationScene, fleet: typer.Typer) -> None:
    new = scene.make_next()
    for wrong, words in (
        (["--to", new, "--drain"], "expected one of"),
        (["--to", new], "device_fingerprint is missing"),
        (["--to", new.lower(), "--device-fingerprint", "0b1c2d3e"], "address"),
        (["--to", scene.treasury, "--device-fingerprint", "0b1c2d3e"], "expected another address"),
        (["--compromised"], "0 former treasuries"),
        (["--drain", "--old", new], "no former treasury"),
    ):
        assert words in refused(fleet, "treasury", "rotate", "31337", *wrong)
    assert "is not in the chains file" in refused(fleet, "treasury", "rotate", "56", "--drain")
    assert not (scene.signed.folder / "history").exists()
