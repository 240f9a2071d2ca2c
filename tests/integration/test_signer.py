"""The signer's whole way: API under uvicorn, the software device, the command, and each refusal."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eth_keys.constants import SECPK1_N
from typer.testing import CliRunner

from custody.releases import Step
from custody.releases.requests import ask
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.trezor import TREASURY_PATH, DeviceRejected, Signature, UnsignedTransaction
from tests.counts import sampled
from tests.release_scene import UNITS, Scene, new_seed
from tests.signer_api_server import client_at, kept
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED, signer
from workers.cli.signer.desk import SESSIONS_FILE
from workers.embedded.trezor_device import Fault, SoftwareDevice
from workers.signer import (
    Event,
    InstructionRefused,
    SignerClient,
    SigningDeskSettings,
    check_instruction,
    queue,
    sign_instruction,
    sign_open_instructions,
)
from workers.signer.checks import InstructionEarly
from workers.signer.session_file import SessionFile

FEE_CAP_WEI = 10**16


@pytest.fixture(name="client")
def _client(api: str) -> Iterator[SignerClient]:
    with client_at(api) as client:
        yield client


def desk(device: SoftwareDevice, tmp_path: Path) -> SigningDeskSettings:
    return SigningDeskSettings(device.path, TREASURY_PATH, 5.0, FEE_CAP_WEI, lock_folder=tmp_path / "locks")


def sign(
    scene: Scene, client: SignerClient, device: SoftwareDevice, payment: UUID, tmp_path: Path
) -> tuple[bool, list[Event]]:
    events: list[Event] = []
    done = sign_instruction(
        client,
        scene.step.chains,
        desk(device, tmp_path),
        str(scene.instruction(payment).id),
        progress=events.append,
        confirm=lambda _checked, _screens: True,
    )
    return done, events


@contextmanager
def working(step: Step) -> Generator[None]:
    """The releases worker at work beside the signer."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            step.run_once(10)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_every_open_instruction_is_signed_on_the_device_and_paid(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path
) -> None:
    payments = [scene.payment() for _ in range(3)]
    events: list[Event] = []
    with working(scene.step):
        outcome = sign_open_instructions(
            client, scene.step.chains, desk(device, tmp_path), wait_seconds=10, count=3, progress=events.append
        )
        for _ in range(200):
            if all(scene.instruction(each).state == "final" for each in payments):
                break
            time.sleep(0.05)
    assert (len(outcome.signed), outcome.rejected, outcome.errors) == (3, [], [])
    assert device.signatures == 3
    assert [scene.paid_to(each) for each in payments] == [UNITS] * 3
    shown = [event.screens for event in events if event.kind == "checked"]
    assert ["\n".join(screen) for screen in device.screens] == [text for screens in shown for text in screens]
    scene.require_books_equal_chain()


def test_one_whose_turn_has_not_come_is_asked_again_and_not_given_up(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Safe's next payout is handed out once the one before is sent: for a block, this machine's node knows better."""
    payment = scene.payment()
    scene.run()
    early = [InstructionEarly("an earlier payout is not executed yet")] * 2
    signs = queue.sign_instruction

    def first_early(*arguments: Any, **named: Any) -> bool:
        if early:
            raise early.pop()
        return signs(*arguments, **named)

    monkeypatch.setattr(queue, "sign_instruction", first_early)
    events: list[Event] = []
    outcome = sign_open_instructions(client, scene.step.chains, desk(device, tmp_path), count=1, progress=events.append)
    assert (len(outcome.signed), outcome.errors, early) == (1, [], [])
    assert [event.kind for event in events].count("waiting") == 2
    scene.run()
    assert scene.paid_to(payment) == UNITS


def test_one_whose_turn_never_comes_is_said_at_the_end_of_the_wait(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.payment()
    scene.run()

    def always_early(*_: Any, **__: Any) -> bool:
        raise InstructionEarly("an earlier payout is not executed yet")

    monkeypatch.setattr(queue, "sign_instruction", always_early)
    monkeypatch.setattr(queue, "QUEUE_SECONDS", 0.5)
    outcome = sign_open_instructions(client, scene.step.chains, desk(device, tmp_path))
    assert (outcome.signed, outcome.errors) == ([], ["an earlier payout is not executed yet"])
    assert device.signatures == 0


def test_a_cancel_is_signed_on_the_device_and_moves_nothing(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path
) -> None:
    """R1: the same instruction asks for another transaction, and the signer's machine sees which one it is."""
    payment = scene.payment()
    scene.run()
    instruction = scene.instruction(payment).id
    before = client.instruction(str(instruction))
    with transaction(scene.database.engine("fleet_operator")) as connection:
        ask(connection, instruction, "cancel", reason="wrong seller", by="ada")
    scene.run()
    claimed = client.instruction(str(instruction))
    assert (claimed.state, claimed.signs, claimed.waits_for_signer) == ("cancelling", "cancel", True)
    assert claimed.unsigned_bytes != before.unsigned_bytes
    checked = check_instruction(claimed, scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    assert (checked.transaction.to, checked.transaction.value) == (scene.treasury, 0)
    lie = claimed.model_copy(update={"signs": "payout"})
    with pytest.raises(InstructionRefused, match="no token transfer"):
        check_instruction(lie, scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    lie = before.model_copy(update={"signs": "cancel"})
    with pytest.raises(InstructionRefused, match="its cancel says to"):
        check_instruction(lie, scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    done, events = sign(scene, client, device, payment, tmp_path)
    assert done
    assert any("CANCEL of release" in line for event in events for line in event.lines)
    scene.run()
    assert scene.instruction(payment).state == "cancelled"
    assert (device.signatures, scene.paid_to(payment)) == (1, 0)
    scene.require_books_equal_chain()


def test_nothing_open_ends_the_session_at_once(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path
) -> None:
    assert sign_open_instructions(client, scene.step.chains, desk(device, tmp_path)).signed == []


def test_the_evidence_names_deposit_sweep_ledger_and_bytes(scene: Scene, client: SignerClient) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    found = client.instruction(str(row.id))
    assert found.unsigned_bytes == "0x" + bytes(row.unsigned_bytes).hex()
    assert (found.amount, found.amount_units, found.symbol) == ("100", "100000000", "USDT")
    assert found.label == "wallet of the seller"
    assert found.evidence is not None
    assert [each["amount_units"] for each in found.evidence["deposits"]] == [str(UNITS)]
    assert [each["entry_type"] for each in found.evidence["ledger"]] == [
        "payment_detected", "hold", "adjustment", "release",
    ]  # fmt: skip
    checked = check_instruction(found, scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    assert checked.transaction.signing_bytes() == bytes(row.unsigned_bytes)


def test_a_rejection_on_the_device_leaves_it_open_with_its_reason(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path
) -> None:
    payment = scene.payment()
    scene.run()
    device.fault = Fault.REJECT
    with pytest.raises(DeviceRejected):
        sign(scene, client, device, payment, tmp_path)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "handed_out"
    assert row.rejected_reason.startswith("device_rejected")
    assert not client.instruction(str(row.id)).waits_for_signer
    device.fault = None
    assert sign(scene, client, device, payment, tmp_path)[0]
    scene.run()
    done = scene.instruction(payment)
    assert (done.state, done.rejected_reason) == ("final", None)


# Submissions the worker refuses; the instruction stays open, and the right signature still ends it


def _high_s(scene: Scene, payment: UUID) -> tuple[int, int, int]:
    good = scene.sign(payment)
    return 1 - good.y_parity, good.r, SECPK1_N - good.s


def _other_key(scene: Scene, payment: UUID) -> Signature:
    mine, scene.seed = scene.seed, new_seed()
    try:
        return scene.sign(payment)
    finally:
        scene.seed = mine


def _wrong_parity(scene: Scene, payment: UUID) -> tuple[int, int, int]:
    good = scene.sign(payment)
    return 1 - good.y_parity, good.r, good.s


def _of_other_fields(scene: Scene, payment: UUID) -> Signature:
    raw = UnsignedTransaction.from_signing_bytes(bytes(scene.instruction(payment).unsigned_bytes))
    changed = UnsignedTransaction(
        raw.chain_id,
        raw.nonce,
        raw.max_priority_fee_per_gas,
        raw.max_fee_per_gas,
        raw.gas_limit + 1,
        raw.to,
        0,
        raw.data,
    )
    return scene.sign_hash(changed.signing_hash())


def test_each_wrong_signature_is_refused_and_the_right_one_still_ends_it(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    wrong: list[tuple[Signature | tuple[int, int, int], str]] = [
        (_high_s(scene, payment), "malformed_signature"),
        (_other_key(scene, payment), "wrong_signer"),
        (_wrong_parity(scene, payment), "wrong_signer"),
        (_of_other_fields(scene, payment), "wrong_signer"),
        ((0, 0, 1), "malformed_signature"),
        ((0, SECPK1_N, 1), "malformed_signature"),
    ]
    for signature, reason in wrong:
        scene.submit(payment, signature)
        scene.run()
        assert scene.instruction(payment).state == "handed_out"
        state, why = scene.submissions(payment)[-1]
        assert (state, (why or "").partition(":")[0]) == ("refused", reason)
    scene.submit(payment, scene.sign(payment))
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS


@pytest.mark.parametrize("also_hash", [False, True])
def test_tampered_unsigned_bytes_are_refused_by_fleet_and_signer(
    scene: Scene, client: SignerClient, device: SoftwareDevice, tmp_path: Path, *, also_hash: bool
) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    raw = UnsignedTransaction.from_signing_bytes(bytes(row.unsigned_bytes))
    thief = UnsignedTransaction(
        raw.chain_id, raw.nonce, raw.max_priority_fee_per_gas, raw.max_fee_per_gas, raw.gas_limit, raw.to, 0,
        raw.data[:16] + bytes(19) + b"\x66" + raw.data[36:],
    )  # fmt: skip
    for table, key in (("release_instructions", "id"), ("nonce_digests", "instruction_id")):
        scene.market.execute(
            f"UPDATE fleet.{table} SET unsigned_bytes = :raw, signing_hash = :hash WHERE {key} = :id",
            raw=thief.signing_bytes(),
            hash=thief.signing_hash() if also_hash else bytes(row.signing_hash),
            id=row.id,
        )
    with pytest.raises(InstructionRefused, match="its bytes say"):
        sign(scene, client, device, payment, tmp_path)
    assert device.signatures == 0
    scene.submit(payment, scene.sign_hash(thief.signing_hash()))
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    assert scene.submissions(payment)[0][1] is not None
    assert scene.market.execute("SELECT reason FROM fleet.dead_work")[0].reason.startswith("stored_bytes_differ")


# What the signer's machine refuses by its own configuration


LIES: list[tuple[dict[str, Any], str]] = [
    ({"treasury": "0x" + "12" * 20}, "treasury"),
    ({"chain_id": 1}, "chain 1"),
    ({"token": "0x" + "12" * 20}, "not in this machine's chains file"),
    ({"decimals": 18}, "decimals"),
    ({"amount": "1"}, "smallest units"),
    ({"amount_units": "1", "amount": "0.000001"}, "amount"),
    ({"recipient": "0x52908400098527886E0F7030069857D2E4169EE7"}, "recipient"),
    ({"recipient": "0x52908400098527886E0F7030069857D2E4169eE7"}, "checksum"),
    ({"nonce": 7}, "nonce"),
    ({"max_total_fee_wei": "1"}, "fee ceiling"),
    ({"signing_hash": "0x" + "00" * 32}, "signing hash"),
    ({"unsigned_bytes": "0x02c0"}, "no release transaction"),
    ({"unsigned_bytes": None}, "no bytes"),
]


def test_each_claim_that_differs_from_bytes_or_local_facts_is_refused(scene: Scene, client: SignerClient) -> None:
    payment = scene.payment()
    scene.run()
    true = client.instruction(str(scene.instruction(payment).id))
    assert check_instruction(true, scene.step.chains, fee_cap_wei=FEE_CAP_WEI).claimed is true
    for change, words in LIES:
        with pytest.raises(InstructionRefused, match=words):
            check_instruction(true.model_copy(update=change), scene.step.chains, fee_cap_wei=FEE_CAP_WEI)


def test_a_fee_above_this_machines_own_cap_is_refused(scene: Scene, client: SignerClient) -> None:
    payment = scene.payment()
    scene.run()
    with pytest.raises(InstructionRefused, match="this machine allows"):
        check_instruction(client.instruction(str(scene.instruction(payment).id)), scene.step.chains, fee_cap_wei=21_000)


# The command


@pytest.fixture(name="command")
def _command(
    scene: Scene, api: str, device: SoftwareDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CliRunner]:
    SessionFile(tmp_path / "state" / SESSIONS_FILE).put(kept(api, scene.treasury))
    for name, value in {
        "CHAINS_FILE": str(scene.folder / "chains.toml"),
        "SIGNER_API_URL": api,
        "FLEET_STATE_DIR": str(tmp_path / "state"),
        "TREZOR_PATH": device.path,
        "SIGNER_JOURNAL_FILE": str(tmp_path / "journal.jsonl"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    settings.cache_clear()
    yield CliRunner()
    settings.cache_clear()


def test_fleet_signer_lists_shows_and_signs(scene: Scene, command: CliRunner, device: SoftwareDevice) -> None:
    payment = scene.payment()
    scene.run()
    found = json.loads(command.invoke(signer, ["inbox", "--json"]).stdout)
    assert [each["state"] for each in found] == ["handed_out"]
    shown = command.invoke(signer, ["show", found[0]["id"]])
    assert "100 USDT" in shown.stdout
    done = command.invoke(signer, ["sign", "--yes"])
    assert done.exit_code == 0, done.output
    assert scene.instruction(payment).recipient in done.output
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert device.signatures == 1
    empty = command.invoke(signer, ["sign", "--yes"])
    assert empty.exit_code == EXIT_REFUSED
    assert "No instruction is handed out" in empty.output


@pytest.mark.parametrize("every", [[], ["--all"]])
def test_fleet_signer_ends_with_3_when_the_device_says_no(
    scene: Scene, command: CliRunner, device: SoftwareDevice, every: list[str]
) -> None:
    payment = scene.payment()
    scene.run()
    device.fault = Fault.REJECT
    said = command.invoke(signer, ["sign", "--yes", *every])
    assert said.exit_code == EXIT_REJECTED
    assert "rejected on the device" in said.output
    scene.run()
    assert scene.instruction(payment).rejected_reason.startswith("device_rejected")


DEVICE_ERRORS = [
    (Fault.OTHER_WALLET, "expected one is"),
    (Fault.WRONG_SIGNATURE, "thrown away"),
    (Fault.PIN_LOCKED, "PIN"),
    (Fault.PASSPHRASE, "passphrase"),
    (Fault.GARBAGE, "could not be read"),
    (Fault.SILENT, "answered at the device in time"),
    (Fault.NEVER_ANSWER, "prompt was cancelled"),
]


def test_every_device_error_is_a_sentence_and_nothing_is_handed_in(
    scene: Scene,
    command: CliRunner,
    device: SoftwareDevice,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    monkeypatch.setenv("TREZOR_APPROVAL_TIMEOUT_SECONDS", "5")
    payment = scene.payment()
    scene.run()
    for fault, words in sampled(DEVICE_ERRORS):
        with subtests.test(fault.name):
            device.fault = fault
            said = command.invoke(signer, ["sign", "--yes"], input="1\n")
            assert said.exit_code == EXIT_REFUSED, said.output
            assert words in said.output
            assert "Traceback" not in said.output
            assert scene.submissions(payment) == []
            scene.run()
            # A signature may exist all the same: the instruction stays handed out and its money reserved (R1).
            waiting = scene.instruction(payment)
            assert (waiting.state, waiting.rejected_reason) == ("handed_out", None)
    device.fault = None
    assert command.invoke(signer, ["sign", "--yes"]).exit_code == 0
    assert len(scene.submissions(payment)) == 1


def test_no_at_the_desk_sends_nothing_to_the_device(scene: Scene, command: CliRunner, device: SoftwareDevice) -> None:
    payment = scene.payment()
    scene.run()
    said = command.invoke(signer, ["sign"], input="n\n")
    assert said.exit_code == 0
    assert "stays open" in said.output
    assert device.signatures == 0
    rejected = command.invoke(signer, ["reject", str(scene.instruction(payment).id), "--reason", "seller is unknown"])
    assert rejected.exit_code == 0
    scene.run()
    assert scene.instruction(payment).rejected_reason == "seller is unknown"
