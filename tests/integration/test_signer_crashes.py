"""kill -9 at the signer's desk (R4): between journal and device, and between device and API. Nothing is signed twice."""

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from custody.trezor import UnsignedTransaction, encode_erc20_transfer
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.fleet_process import wait_for
from tests.release_scene import UNITS
from tests.signer_api_server import serving
from tests.signer_desk import at_desk, desk_environment, journal_of, said, start_signer
from tests.signer_scene import SignerScene, signer_scenes, thief
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.embedded.services import Services
from workers.embedded.trezor_device import Press, SoftwareDevice


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[SignerScene]:
    yield from signer_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path)


class Gate:
    """An API that hangs: a signature that comes while it is shut goes no further, ever."""

    def __init__(self) -> None:
        self.is_shut = True
        self.reached = threading.Event()
        self.opened = threading.Event()

    def open(self) -> None:
        self.is_shut = False
        self.opened.set()

    def around(self, inner: ASGIApp) -> ASGIApp:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if self.is_shut and scope["type"] == "http" and scope["path"].endswith("/signature"):
                self.reached.set()
                await asyncio.to_thread(self.opened.wait, 60)
                return
            await inner(scope, receive, send)

        return application


def kinds(scene: SignerScene) -> list[str]:
    path = journal_of(scene)
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def killed(process: "Popen[str]") -> Generator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_killed_between_device_and_api_the_same_signature_is_handed_in_and_nobody_is_asked(
    scene: SignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    gate = Gate()
    with SoftwareDevice(scene.seed) as device, serving(scene.database, around=gate.around) as url:
        with killed(start_signer(desk_environment(scene, device.path, url), "sign", "--yes")):
            assert gate.reached.wait(60)
        assert kinds(scene) == ["seal", "asked", "signed"]
        assert (device.signatures, scene.submissions(payment)) == (1, [])
        gate.open()
        shown = list(device.screens)
        with at_desk(scene, device.path, url, monkeypatch) as cli:
            done = cli("sign", "--yes")
        assert done.exit_code == 0, done.output
        assert "The device signed" in said(done)
        assert (device.signatures, list(device.screens)) == (1, shown)
    assert kinds(scene) == ["seal", "asked", "signed", "handed_in"]
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS


def test_killed_while_the_device_asks_the_same_bytes_are_asked_again(
    scene: SignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    with SoftwareDevice(scene.seed, buttons=Press.ASK) as device, serving(scene.database) as url:
        with killed(start_signer(desk_environment(scene, device.path, url), "sign", "--yes")):
            assert device.wait_for_prompt(60)
        assert kinds(scene) == ["seal", "asked"]
        device.press(confirm=False)
    with SoftwareDevice(scene.seed) as device, serving(scene.database) as url:
        with at_desk(scene, device.path, url, monkeypatch) as cli:
            done = cli("sign", "--yes")
        assert done.exit_code == 0, done.output
    assert kinds(scene) == ["seal", "asked", "asked", "signed", "handed_in"]
    lines = [json.loads(line) for line in journal_of(scene).read_text().splitlines()]
    assert lines[1]["signing_hash"] == lines[2]["signing_hash"]
    scene.run()
    assert scene.instruction(payment).state == "final"


def test_a_restored_database_that_gives_the_nonce_to_another_payout_is_refused(
    scene: SignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    with SoftwareDevice(scene.seed) as device, serving(scene.database) as url:
        with at_desk(scene, device.path, url, monkeypatch) as cli:
            monkeypatch.delenv("SIGNER_TRUST_FILE")  # the journal holds by itself
            assert cli("sign", "--yes").exit_code == 0
            scene.rule()
            scene.rewrite_bytes(payment, thief(), UNITS)
            refused = cli("sign", str(scene.instruction(payment).id), "--yes")
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert "One nonce has one intent (R1)" in said(refused)
        assert device.signatures == 1


def test_the_nonce_of_a_signed_payout_takes_a_fee_replacement_and_no_cheaper_one(
    scene: SignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    row = scene.instruction(payment)
    raw = UnsignedTransaction.from_signing_bytes(bytes(row.unsigned_bytes))

    def replace(eighths: int) -> None:
        """The same payout with its fees times eighths / 8."""
        fee = -(-raw.max_fee_per_gas * eighths // 8)
        tip = -(-raw.max_priority_fee_per_gas * eighths // 8)
        again = UnsignedTransaction(
            raw.chain_id, raw.nonce, tip, fee, raw.gas_limit, raw.to, 0, encode_erc20_transfer(row.recipient, UNITS)
        )
        scene.market.execute(
            "UPDATE fleet.release_instructions SET unsigned_bytes = :raw, signing_hash = :hash, max_total_fee_wei = :fee "
            "WHERE id = :id",
            raw=again.signing_bytes(),
            hash=again.signing_hash(),
            fee=again.max_total_fee_wei,
            id=row.id,
        )
        scene.market.execute(
            """
            INSERT INTO fleet.nonce_digests (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei)
            SELECT :id, max(place) + 1, 'payout', :raw, :hash, :fee FROM fleet.nonce_digests WHERE instruction_id = :id
            RETURNING id
            """,
            raw=again.signing_bytes(),
            hash=again.signing_hash(),
            fee=again.max_total_fee_wei,
            id=row.id,
        )

    with SoftwareDevice(scene.seed) as device, serving(scene.database) as url:
        with at_desk(scene, device.path, url, monkeypatch) as cli:
            assert cli("sign", "--yes").exit_code == 0
            replace(8 + 16)
            assert cli("sign", str(row.id), "--yes").exit_code == 0
            assert device.signatures == 2
            replace(8 + 17)
            refused = cli("sign", str(row.id), "--yes")
        assert refused.exit_code == EXIT_REFUSED, refused.output
        assert "1.125 times" in said(refused)
        assert device.signatures == 2


@ONLY_LONG
def test_two_signers_on_one_machine_take_turns(scene: SignerScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.handed_out_payment()
    with SoftwareDevice(scene.seed, buttons=Press.ASK) as device, serving(scene.database) as url:
        with killed(start_signer(desk_environment(scene, device.path, url), "sign", "--yes")):
            assert device.wait_for_prompt(60)
            with at_desk(scene, device.path, url, monkeypatch) as cli:
                refused = cli("sign", "--yes")
        assert refused.exit_code == EXIT_REFUSED
        assert "Another fleet signer on this machine" in said(refused)
        wait_for(lambda: "signed" not in kinds(scene))


def test_a_damaged_journal_signs_nothing_and_says_what_to_do(
    scene: SignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.handed_out_payment()
    with SoftwareDevice(scene.seed) as device, serving(scene.database) as url:
        with at_desk(scene, device.path, url, monkeypatch) as cli:
            path = journal_of(scene)
            path.touch(mode=0o600)
            path.write_text("{}\n")
            for command in (["sign", "--yes"], ["journal", "show"]):
                refused = cli(*command)
                assert refused.exit_code == EXIT_REFUSED
                assert "is damaged at line 1" in said(refused)
            assert "exists already" in said(cli("journal", "start"))
            path.rename(path.with_suffix(".damaged"))
            assert cli("journal", "start").exit_code == 0
            assert cli("sign", "--yes").exit_code == 0
            shown = json.loads(cli("journal", "show", "--json").stdout)
        assert shown["lines"] == {"seal": 1, "asked": 1, "signed": 1, "handed_in": 1}
        assert shown["highest_nonces"] == [{"chain_id": 31337, "treasury": scene.treasury, "nonce": 0}]
        assert device.signatures == 1
