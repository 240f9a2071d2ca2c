"""An approver's way: API under uvicorn, software devices, the command; and what an approver's machine refuses (R4, R6, R18)."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from custody.policy import load_folder
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.trezor import DeviceRejected
from custody.trezor.derivation import parse_derivation_path
from tests.conftest import Database
from tests.integration.conftest import APPROVED_RULES
from tests.policy_files import key
from tests.release_scene import UNITS, Scene, approval_scenes, new_seed
from tests.signer_api_server import client_at, client_with_devices, post, serving
from tests.token_chain import TokenChain
from workers.cli.approve import approve_command
from workers.embedded.services import Services
from workers.embedded.trezor_device import Press, SoftwareDevice
from workers.embedded.trezor_device.wallet import Wallet
from workers.signer import InstructionRefused, SignerApiError, SignerClient
from workers.signer.approving import APPROVAL_PATH, ApproverDesk, approvable_entry, approvable_instruction, approve_open
from workers.signer.client import ApiInstruction

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
def api(scene: Scene) -> Iterator[str]:
    with serving(scene.database, devices=ADDRESSES) as url:
        yield url


@pytest.fixture
def client(api: str, tmp_path: Path) -> Iterator[SignerClient]:
    with client_with_devices(api, tmp_path) as client:
        yield client


def desk(scene: Scene, person: str, device: str, tmp_path: Path) -> ApproverDesk:
    verified = load_folder(scene.signed.folder, root=scene.signed.root, now=datetime.now(UTC))
    return ApproverDesk(verified, person, device, 10.0, 10**16, passphrase="", lock_folder=tmp_path / "locks")


def unsigned_wallet(scene: Scene) -> tuple[UUID, str]:
    """A payment whose seller's wallet nobody has signed."""
    payment = scene.payment(recipient=None)
    seller = scene.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
    wallet = key(f"wallet of {payment}").address
    scene.propose(seller, wallet)
    return payment, wallet


def test_two_devices_sign_the_entry_and_the_release(scene: Scene, client: SignerClient, tmp_path: Path) -> None:
    payment, wallet = unsigned_wallet(scene)
    shown: list[str] = []
    with SoftwareDevice(SEEDS["dan"]) as dan, SoftwareDevice(SEEDS["eva"]) as eva:
        for what in ("the entry", "the release"):
            for person, device in (("dan", dan), ("eva", eva)):
                at_work = desk(scene, person, device.path, tmp_path)
                outcome = approve_open(client, at_work, progress=lambda sentence, _rows: shown.append(sentence))
                assert (len(outcome.approved), outcome.refused) == (1, {}), what
                again = approve_open(client, at_work)
                assert (again.approved, again.refused) == ([], {})
            scene.due_now()
            scene.run()
        assert dan.signatures == eva.signatures == 3  # a login each, the entry and the release
    assert scene.instruction(payment).state == "handed_out"
    assert f"release of 100 USDT on test to wallet of the seller ({wallet})" in shown
    scene.submit(payment, scene.sign(payment))
    scene.run()
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_the_command_approves_and_says_what_the_device_shows(
    scene: Scene, api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.payment()
    scene.run()
    with SoftwareDevice(SEEDS["dan"]) as dan:
        for name, value in {
            "SIGNER_API_URL": api,
            "FLEET_STATE_DIR": str(tmp_path / "state"),
            "POLICY_DIR": str(scene.signed.folder),
            "GENESIS_HASH": scene.signed.root,
            "TREZOR_PATH": dan.path,
        }.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        app = typer.Typer()
        app.command()(approve_command)
        said = CliRunner(env={"COLUMNS": "200"}).invoke(
            app, [str(scene.instruction(payment).id), "--as", "dan", "--yes"]
        )
        stranger = CliRunner().invoke(app, ["--as", "nobody", "--yes"])
    settings.cache_clear()
    assert said.exit_code == 0, said.output
    for row in (
        "LOGIN amanat",
        ADDRESSES["dan"][:18],
        "APPROVE rel amn1",
        "100 USDT",
        scene.instruction(payment).recipient[:18],
        "dan approved it.",
    ):
        assert row in said.output
    assert (stranger.exit_code, "nobody is no active approver" in stranger.output) == (2, True)
    scene.run()
    assert "(dan did)" in scene.instruction(payment).held_reason


def test_a_rejection_on_the_device_approves_nothing(scene: Scene, client: SignerClient, tmp_path: Path) -> None:
    payment = scene.payment()
    scene.run()
    with SoftwareDevice(SEEDS["dan"], buttons=Press.NO) as dan, pytest.raises(DeviceRejected):
        approve_open(client, desk(scene, "dan", dan.path, tmp_path))
    assert (
        scene.market.execute(
            "SELECT count(*) AS n FROM fleet.approvals WHERE subject_id = :id", id=scene.instruction(payment).id
        )[0].n
        == 0
    )


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "recipient": (lambda said: said.update(recipient=key("thief").address), "no entry with 2 approvers' signatures"),
    "amount": (lambda said: said.update(amount_units="1"), "the hash of its fields is"),
    "treasury": (lambda said: said.update(treasury=key("thief").address), "its treasury is"),
    "token": (lambda said: said.update(token=key("token").address), "is not in this machine's genesis"),
    "chain": (lambda said: said.update(chain_id=1), "is not in this machine's genesis"),
    "payment": (lambda said: said.update(payment_id=str(uuid4())), "the hash of its fields is"),
    "purpose": (lambda said: said.update(purpose="refund"), "the hash of its fields is"),
    "epoch": (lambda said: said.update(release_epoch=77), "the hash of its fields is"),
    "id": (lambda said: said.update(id=str(uuid4())), "the hash of its fields is"),
    "environment": (lambda said: said["approval"].update(environment="evil"), "its environment is evil"),
    "policy": (lambda said: said["approval"].update(policy_hash="0" * 64), "its policy is 1:000"),
    "policy version": (lambda said: said["approval"].update(policy_version=9), "its policy is 9:"),
    "fee": (lambda said: said["approval"].update(fee_ceiling_wei=str(10**16 + 1)), "its fee may reach"),
    "lower fee": (lambda said: said["approval"].update(fee_ceiling_wei="1"), "the hash of its fields is"),
    "expiry": (lambda said: said["approval"].update(expires_at="2999-01-01T00:00:00+00:00"), "expected within 7 days"),
    "past": (lambda said: said["approval"].update(expires_at="2001-01-01T00:00:00+00:00"), "expected within 7 days"),
    "hash": (lambda said: said["approval"].update(intent_hash="ab" * 32), "the hash of its fields is"),
    "label": (lambda said: said["evidence"]["address_book"][0].update(label="mother"), "no entry with 2 approvers'"),
    "owner": (lambda said: said["evidence"]["address_book"][0].update(owner="eve"), "no entry with 2 approvers'"),
    "signatures": (lambda said: said["evidence"]["address_book"][0]["signatures"].pop(), "no entry with 2 approvers'"),
    "one person twice": (
        lambda said: said["evidence"]["address_book"][0].update(
            signatures=[said["evidence"]["address_book"][0]["signatures"][0]] * 2
        ),
        "no entry with 2 approvers'",
    ),
    "no entry": (lambda said: said["evidence"].update(address_book=[]), "no entry with 2 approvers'"),
    "state": (lambda said: said.update(state="ready"), "it asks nobody for approval"),
}


def test_a_lying_api_is_refused_before_the_device(
    scene: Scene, client: SignerClient, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    payment = scene.payment()
    scene.run()
    honest = client.instruction(str(scene.instruction(payment).id))
    at_work = desk(scene, "dan", "udp:127.0.0.1:1", tmp_path)
    assert approvable_instruction(honest, at_work, datetime.now(UTC)).digest == honest.approval.intent_hash  # type: ignore[union-attr]
    for name, (lie, expected) in LIES.items():
        said = json.loads(honest.model_dump_json())
        lie(said)
        with subtests.test(name), pytest.raises(InstructionRefused, match=expected):
            approvable_instruction(ApiInstruction.model_validate(said), at_work, datetime.now(UTC))


def test_a_lying_entry_is_refused(scene: Scene, client: SignerClient, tmp_path: Path) -> None:
    unsigned_wallet(scene)
    [entry] = client.unsigned_entries(2)
    at_work = desk(scene, "dan", "udp:127.0.0.1:1", tmp_path)
    assert approvable_entry(entry, at_work).digest == entry.hash
    for changed in (
        {"address": key("thief").address},
        {"owner": "eve"},
        {"label": "x"},
        {"chain_id": 1},
        {"hash": "0" * 64},
    ):
        with pytest.raises(InstructionRefused):
            approvable_entry(entry.model_copy(update=changed), at_work)
    other = replace(at_work, person="eva")
    assert approvable_entry(entry, other).text == approvable_entry(entry, at_work).text


def test_one_approval_a_person_however_many_come_at_once(scene: Scene, api: str) -> None:
    """R18: UNIQUE(instruction, person), also for sixteen clients that come together."""
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    body = {
        "person": "ada",
        "approver": key("ada").address,
        "digest": bytes(row.intent_hash).hex(),
        "signature": "0x" + scene.approval_signature(payment, "ada").hex(),
    }
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(post(api, f"/v1/instructions/{row.id}/approval", body, who="ada").status_code)
        )
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(answers)) in ([200, 202], [202])
    assert answers.count(202) == 1
    other = body | {"signature": body["signature"][:-2] + "1d"}
    refused = post(api, f"/v1/instructions/{row.id}/approval", other, who="ada")
    assert (refused.status_code, "one approval a person counts" in refused.json()["error"]) == (409, True)


MALFORMED: list[tuple[dict[str, Any], int]] = [
    ({"person": "Ada"}, 422),
    ({"person": ""}, 422),
    ({"approver": "0x1"}, 422),
    ({"digest": "0x" + "0" * 64}, 422),
    ({"digest": "0" * 64}, 409),
    ({"signature": "0x00"}, 422),
    ({"more": 1}, 422),
    ({"person": 7}, 422),
    ({"signature": "0x" + "AB" * 65}, 422),
]


def test_a_body_that_is_no_approval(scene: Scene, api: str, subtests: pytest.Subtests) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    good = {
        "person": "ada",
        "approver": key("ada").address,
        "digest": bytes(row.intent_hash).hex(),
        "signature": "0x" + "11" * 65,
    }
    for body, status in MALFORMED:
        with subtests.test(str(body)[:24]):
            answer = post(api, f"/v1/instructions/{row.id}/approval", good | body, who="ada")
            assert answer.status_code == status, answer.text
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.approvals WHERE subject_id = :i", i=row.id)[0].n == 0


def test_what_awaits_no_approval_takes_none(scene: Scene, api: str) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    body = {
        "person": "ada",
        "approver": key("ada").address,
        "digest": bytes(row.intent_hash).hex(),
        "signature": "0x" + scene.approval_signature(payment, "ada").hex(),
    }
    scene.approve(payment, "ada", "bob")
    scene.run()
    late = post(api, f"/v1/instructions/{row.id}/approval", body, who="ada")
    assert (late.status_code, late.json()["error"]) == (
        409, "The instruction is handed_out; only one that awaits approval takes one.",
    )  # fmt: skip
    assert post(api, f"/v1/instructions/{uuid4()}/approval", body, who="ada").status_code == 404
    assert post(api, f"/v1/address-book/{uuid4()}/approval", body, who="ada").status_code == 404


def test_the_api_cannot_say_which_approvals_count(scene: Scene) -> None:
    """R9: its role inserts what came in, and can neither accept nor change it."""
    from sqlalchemy.exc import ProgrammingError

    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada")
    for statement in (
        "UPDATE fleet.approvals SET state = 'accepted'",
        "DELETE FROM fleet.approvals",
        "INSERT INTO fleet.approvals (subject_kind, subject_id, digest, person, approver, signature, state) "
        "SELECT subject_kind, subject_id, digest, 'bob', approver, signature, 'accepted' FROM fleet.approvals",
        "UPDATE fleet.release_instructions SET state = 'ready'",
    ):
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            transaction(scene.database.engine("fleet_signer_api")) as connection,
        ):
            connection.execute(text(statement))


def test_an_api_that_is_away_is_said(scene: Scene, tmp_path: Path) -> None:
    with client_at("http://127.0.0.1:9") as client, pytest.raises(SignerApiError, match="does not answer"):
        approve_open(client, desk(scene, "dan", "udp:127.0.0.1:1", tmp_path))
