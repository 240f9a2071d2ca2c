"""A signer's day (R23): the inbox, the next one, who is signing, the right device of two, and a machine without network."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import Database
from tests.release_scene import UNITS, new_seed
from tests.signer_api_server import bearer, post
from tests.signer_desk import Cli, at_desk, journal_of, said
from tests.signer_scene import SignerScene, signer_scenes
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED
from workers.embedded.services import Services
from workers.embedded.trezor_device import Fault, SoftwareDevice
from workers.signer_api.leases import LeaseBody, Leases


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[SignerScene]:
    yield from signer_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path)


# Inbox and next


def test_the_inbox_says_age_amount_seller_presses_and_who_must_act(scene: SignerScene, cli: Cli) -> None:
    first, second = scene.payment(), scene.payment()
    scene.run()
    scene.seal()
    waiting = scene.handed_out([first, second])
    [other] = {first, second} - {waiting}
    found = json.loads(cli("inbox", "--json").stdout)
    assert [each["id"] for each in found] == [str(scene.instruction(each).id) for each in (waiting, other)]
    assert [each["who_acts"] for each in found] == ["you", f"the signer of {found[0]['id']} first"]
    assert [each["presses"] for each in found] == [4, None]
    assert [each["resumed"] for each in found] == [False, False]
    assert 0 <= found[0]["age_seconds"] < 600
    shown = said(cli("inbox"))
    for word in ("wallet of the seller", "100 USDT", "handed_out", "ready", "you"):
        assert word in shown


def test_next_signs_one_and_resumes_what_was_interrupted(
    scene: SignerScene, cli: Cli, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREZOR_APPROVAL_TIMEOUT_SECONDS", "5")
    first, second = scene.payment(), scene.payment()
    scene.run()
    scene.seal()
    device.fault = Fault.NEVER_ANSWER
    unanswered = cli("next", "--yes")
    assert (unanswered.exit_code, "prompt was cancelled" in said(unanswered)) == (EXIT_REFUSED, True), unanswered.output
    [interrupted] = [each for each in json.loads(cli("inbox", "--json").stdout) if each["resumed"]]
    assert "interrupted here" in said(cli("inbox"))
    device.fault = None
    done = cli("next", "--yes")
    assert done.exit_code == 0, done.output
    assert interrupted["id"] in said(done)
    judged = cli("next", "--yes")
    assert judged.exit_code == EXIT_REFUSED
    assert "its signature is being judged" in said(judged)
    for payment in (first, second):
        scene.run()
        scene.seal()
        if scene.instruction(payment).state == "handed_out":
            assert cli("next", "--yes").exit_code == 0
    scene.run()
    assert {scene.instruction(each).state for each in (first, second)} == {"final"}
    assert device.signatures == 2
    empty = cli("next", "--yes")
    assert empty.exit_code == EXIT_REFUSED
    assert "No instruction is handed out" in said(empty)


def test_next_never_asks_again_by_itself_what_a_person_rejected(
    scene: SignerScene, cli: Cli, device: SoftwareDevice
) -> None:
    payment = scene.handed_out_payment()
    device.fault = Fault.REJECT
    assert cli("next", "--yes").exit_code == EXIT_REJECTED
    scene.run()
    device.fault = None
    before = list(device.screens)
    refused = cli("next", "--yes")
    assert refused.exit_code == EXIT_REFUSED
    assert f"fleet signer sign {scene.instruction(payment).id}" in said(refused)
    assert list(device.screens) == before
    [waiting] = json.loads(cli("inbox", "--json").stdout)
    assert waiting["who_acts"].startswith("the custody team: device_rejected")
    assert cli("sign", waiting["id"], "--yes").exit_code == 0


# Who is signing


def test_a_second_signer_is_told_who_is_signing(
    scene: SignerScene, api: str, cli: Cli, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    path = f"/v1/instructions/{scene.instruction(payment).id}/lease"
    assert post(api, path, {"signer": "bob@vault", "seconds": 60}).status_code == 200
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED
    assert "bob@vault is signing it, until" in said(refused)
    assert device.screens == []
    [waiting] = json.loads(cli("inbox", "--json").stdout)
    assert waiting["who_acts"] == "bob@vault is signing it"
    assert post(api, path, {"signer": "bob@vault", "seconds": 0}).json() == {"lease": None}
    assert cli("sign", "--yes").exit_code == 0
    assert httpx.get(f"{api}/v1/instructions", headers=bearer()).json()["instructions"][0]["lease"] is None
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert post(api, path, {"signer": "bob@vault", "seconds": 60}).status_code == 409


def test_a_lease_is_shown_while_the_device_asks(scene: SignerScene, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.handed_out_payment()
    monkeypatch.setenv("SIGNER_NAME", "ada@vault")
    held: list[object] = []
    with (
        SoftwareDevice(scene.seed, on_screen=lambda _: held.append(_lease(api))) as device,
        at_desk(scene, device.path, api, monkeypatch) as cli,
    ):
        assert cli("sign", "--yes").exit_code == 0
    assert held == ["ada@vault"] * 4
    assert _lease(api) is None


def _lease(api: str) -> object:
    [found] = httpx.get(f"{api}/v1/instructions", headers=bearer()).json()["instructions"]
    return found["lease"] and found["lease"]["signer"]


WRONG_LEASES: list[dict[str, object]] = [
    {"signer": "", "seconds": 1},
    {"signer": "ada"},
    {"signer": "ada", "seconds": -1},
    {"signer": "ada", "seconds": 10**6},
    {"signer": "ada", "seconds": "1"},
    {"signer": "a\nb", "seconds": 1},
    {"signer": "x" * 65, "seconds": 1},
    {"signer": "ada", "seconds": 1, "more": 1},
]


def test_a_wrong_lease_is_refused(scene: SignerScene, api: str, subtests: pytest.Subtests) -> None:
    payment = scene.handed_out_payment()
    for body in WRONG_LEASES:
        with subtests.test(str(body)):
            answer = post(api, f"/v1/instructions/{scene.instruction(payment).id}/lease", body)
            assert answer.status_code == 422
            assert _lease(api) is None


def test_a_lease_ends_by_itself_and_belongs_to_one() -> None:
    now = [datetime(2030, 1, 1, tzinfo=UTC)]
    leases, instruction = Leases(lambda: now[0]), uuid4()
    ada, bob = LeaseBody(signer="ada", seconds=60), LeaseBody(signer="bob", seconds=60)
    made = leases.take(instruction, ada)
    assert made is not None
    assert leases.take(instruction, bob) == made
    assert leases.take(instruction, LeaseBody(signer="bob", seconds=0)) == made
    now[0] += timedelta(seconds=30)
    again = leases.take(instruction, ada)
    assert again is not None
    assert again.until == now[0] + timedelta(seconds=60)
    now[0] += timedelta(seconds=60)
    assert leases.of(instruction) == []
    taken = leases.take(instruction, bob)
    assert taken is not None
    assert taken.signer == "bob"


# The right device


def test_of_two_devices_the_one_with_the_pinned_fingerprint_is_asked(
    scene: SignerScene, api: str, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.handed_out_payment()
    [chain] = scene.trust_said()["chains"]
    with SoftwareDevice(new_seed()) as other:
        both = f"{other.path},{device.path}"
        with at_desk(scene, both, api, monkeypatch) as cli:
            refused = cli("sign", "--yes")
            assert refused.exit_code == EXIT_REFUSED
            assert "2 devices are attached" in said(refused)
            scene.write_trust(chains=[{**chain, "device_fingerprint": "00000000"}])
            refused = cli("sign", "--yes")
            assert refused.exit_code == EXIT_REFUSED
            assert "The wallet with fingerprint 00000000 is on no device here; found:" in said(refused)
            scene.write_trust(chains=[{**chain, "device_fingerprint": _fingerprint(device)}])
            assert cli("sign", "--yes").exit_code == 0
        assert (device.signatures, other.signatures, other.screens) == (1, 0, [])


def test_one_device_with_another_fingerprint_is_the_wrong_wallet(
    scene: SignerScene, cli: Cli, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.handed_out_payment()
    monkeypatch.setenv("TREZOR_FINGERPRINT", "0a1b2c3d")
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED
    assert "The wallet with fingerprint 0a1b2c3d is on no device here" in said(refused)
    assert device.screens == []


def _fingerprint(device: SoftwareDevice) -> str:
    from custody.trezor import TREASURY_PATH, open_device

    with open_device(device.path, expected_address=None, derivation_path=TREASURY_PATH) as opened:
        return opened.fingerprint


# A machine without network


@pytest.fixture(name="carried")
def _carried(scene: SignerScene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An instruction's payment and its bundle; after it nothing on this machine can reach API or node."""
    scene.handed_out_payment()
    bundle = scene.folder / "bundle.json"
    done = cli("export", str(bundle))
    assert done.exit_code == 0, done.output
    assert "confirmed at depth by 1 of your own nodes" in said(done)
    return str(scene.instruction(scene.payments[0]).id), bundle


def test_a_bundle_is_signed_without_network_and_the_answer_handed_in(
    scene: SignerScene, carried: tuple[str, Path], cli: Cli, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, bundle = carried
    with monkeypatch.context() as away:
        away.setattr("custody.chain.rpc.ChainClient.__init__", _no_network)
        away.setattr(httpx.Client, "__init__", _no_network)
        signed = cli("sign", "--offline", str(bundle), "--yes")
        assert signed.exit_code == 0, signed.output
        assert "confirmed by http://127.0.0.1:" in said(signed)
        assert "this machine has no network and checked all the rest" in said(signed)
        again = cli("sign", "--offline", str(bundle), "--yes")
        assert again.exit_code == EXIT_REFUSED
        assert "exists already" in said(again)
    for _ in range(2):
        done = cli("submit", str(bundle))
        assert done.exit_code == 0, done.output
        assert f"Instruction {identity} was signed and handed in." in said(done)
    scene.run()
    assert scene.instruction(scene.payments[0]).state == "final"
    assert scene.paid_to(scene.payments[0]) == UNITS
    assert device.signatures == 1


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("a machine without network sent a request")


def test_a_rejection_without_network_is_carried_back(
    scene: SignerScene, carried: tuple[str, Path], cli: Cli, device: SoftwareDevice
) -> None:
    _, bundle = carried
    device.fault = Fault.REJECT
    assert cli("sign", "--offline", str(bundle), "--yes").exit_code == EXIT_REJECTED
    done = cli("submit", str(bundle))
    assert done.exit_code == 0, done.output
    assert "stays open: device_rejected" in said(done)
    scene.run()
    assert scene.instruction(scene.payments[0]).rejected_reason.startswith("device_rejected")


def test_a_lost_answer_is_written_again_from_the_journal(
    carried: tuple[str, Path], cli: Cli, device: SoftwareDevice
) -> None:
    _, bundle = carried
    answer = bundle.with_name("bundle.json.answer")
    assert cli("sign", "--offline", str(bundle), "--yes").exit_code == 0
    first = answer.read_text()
    answer.unlink()
    again = cli("sign", "--offline", str(bundle), "--yes")
    assert again.exit_code == 0
    assert "The device signed it before" in said(again)
    assert answer.read_text() == first
    assert device.signatures == 1


def _changed(bundle: Path, field: str, value: object) -> None:
    content = json.loads(bundle.read_text())
    *way, last = field.split(".")
    place = content
    for each in way:
        place = place[int(each) if each.isdigit() else each]
    place[last] = value
    bundle.write_text(json.dumps(content))


CHANGES: list[tuple[str, object, str]] = [
    ("instruction.recipient", "0x52908400098527886E0F7030069857D2E4169EE7", "recipient"),
    ("instruction.amount_units", "1", "amount"),
    ("instruction.unsigned_bytes", "0x02c0", "no release transaction"),
    ("instruction.evidence.destinations.0.address", "0x52908400098527886E0F7030069857D2E4169EE7", "pinned deposit"),
    ("instruction.evidence.sweeps.0.to_address", "0x52908400098527886E0F7030069857D2E4169EE7", "pinned treasury"),
    ("instruction.evidence.sweeps.0.amount_units", "1", "would be paid out of"),
    ("instruction.evidence.deposits.0.amount_units", "x", "malformed"),
    ("seals", [], "no seal yet"),
    ("seals.0.entries", 7, "not that of its content"),
    ("format", "amanat-signer-bundle-2", "is no bundle"),
]


def test_a_changed_bundle_is_refused_without_asking_the_device(
    carried: tuple[str, Path], cli: Cli, device: SoftwareDevice, subtests: pytest.Subtests
) -> None:
    _, bundle = carried
    whole = bundle.read_text()
    for field, value, words in CHANGES:
        with subtests.test(f"{field} is {value}"):
            bundle.write_text(whole)
            _changed(bundle, field, value)
            refused = cli("sign", "--offline", str(bundle), "--yes")
            assert refused.exit_code == EXIT_REFUSED, refused.output
            assert words in said(refused)
            assert device.screens == []
            assert not bundle.with_name("bundle.json.answer").exists()


def test_an_answer_of_another_key_or_of_other_bytes_is_not_handed_in(
    scene: SignerScene, carried: tuple[str, Path], cli: Cli
) -> None:
    _, bundle = carried
    answer = bundle.with_name("bundle.json.answer")
    assert cli("sign", "--offline", str(bundle), "--yes").exit_code == 0
    good = answer.read_text()
    for field, value, words in (
        ("r", "0x" + "01" * 32, "is signed by"),
        ("s", "0x" + "ff" * 32, "is malformed"),
        ("signing_hash", "0x" + "00" * 32, "has other bytes now"),
        ("r", None, "neither a signature nor a rejection"),
        ("more", 1, "is no answer"),
    ):
        answer.write_text(good)
        _changed(answer, field, value)
        refused = cli("submit", str(bundle))
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert words in said(refused)
    assert scene.submissions(scene.payments[0]) == []
    answer.write_text(good)
    assert cli("submit", str(bundle)).exit_code == 0


def test_a_bundle_goes_on_from_the_last_seal_of_the_machine_without_network(
    scene: SignerScene, carried: tuple[str, Path], cli: Cli, device: SoftwareDevice
) -> None:
    _, bundle = carried
    assert cli("sign", "--offline", str(bundle), "--yes").exit_code == 0
    assert cli("submit", str(bundle)).exit_code == 0
    scene.run()
    last = json.loads(cli("journal", "show", "--json").stdout)["last_seals"]["amn1"]
    scene.handed_out_payment()
    second = scene.folder / "second.json"
    assert cli("export", str(second)).exit_code == 0
    refused = cli("sign", "--offline", str(second), "--yes")
    assert refused.exit_code == EXIT_REFUSED
    assert f"export it again with --since-seal {last}" in said(refused)
    assert "exists already" in said(cli("export", str(second)))
    second.unlink()
    assert cli("export", str(second), "--since-seal", str(last)).exit_code == 0
    assert cli("sign", "--offline", str(second), "--yes").exit_code == 0
    assert device.signatures == 2


def test_export_refuses_what_its_own_nodes_do_not_confirm(scene: SignerScene, cli: Cli) -> None:
    scene.handed_out_payment()
    scene.rule()
    scene.market.execute("UPDATE public.derived_destination_sweeps SET amount = amount + 1")
    bundle = scene.folder / "bundle.json"
    refused = cli("export", str(bundle))
    assert refused.exit_code == EXIT_REFUSED
    assert "the API says amount 100000001" in said(refused)
    assert not bundle.exists()
    assert not journal_of(scene).exists() or journal_of(scene).stat().st_size == 0
