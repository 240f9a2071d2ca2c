"""A signer's own machine through a rotation (R4, R22): what its trust file lets the old and the new device sign."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.release_scene import UNITS
from tests.rotation_scene import RotationScene
from tests.signer_api_server import serving
from tests.signer_desk import at_desk, said
from tests.signer_scene import SignerScene, thief
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.cli.signer.desk import SESSIONS_FILE
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice


@dataclass
class RotatedScene(RotationScene, SignerScene):
    """Real evidence, and more than one treasury."""

    def trust_said(self) -> dict[str, Any]:
        said_before = super().trust_said()
        former = [{"address": at, "state": state} for at, state in self.former.items()]
        said_before["chains"][0]["former_treasuries"] = former
        return said_before


@pytest.fixture
def scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[RotatedScene]:
    made = RotatedScene(token_chain, database, services.mongo_url, mongo_database, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def devices() -> Iterator[dict[str, SoftwareDevice]]:
    """Devices by seed, started when they are first asked."""
    made: dict[str, SoftwareDevice] = {}
    yield made
    for device in made.values():
        device.__exit__(None, None, None)


def sign(scene: RotatedScene, devices: dict[str, SoftwareDevice], of: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """``fleet signer sign`` on the machine of a treasury's device, which logs in for itself: each signs for its own alone."""
    seed = scene.seeds[of]
    if seed not in devices:
        devices[seed] = SoftwareDevice(seed).__enter__()
    scene.seal()
    with serving(scene.database) as url, at_desk(scene, devices[seed].path, url, monkeypatch) as cli:
        (scene.folder / "state" / SESSIONS_FILE).unlink()
        return cli("sign", "--yes")


def test_a_drain_is_signed_by_the_old_device_and_the_release_after_it_by_the_new_one(
    scene: RotatedScene, devices: dict[str, SoftwareDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.order(old)
    scene.run()
    done = sign(scene, devices, old, monkeypatch)
    assert done.exit_code == 0, done.output
    assert "the active treasury of the trust file" in said(done)
    scene.run()
    assert scene.of(payment, "drain")[0].state == "final"
    # Its coins were swept to the old treasury: to this machine they are the house's all the same, and count once.
    scene.set_request(payment, "completed")
    scene.run()
    done = sign(scene, devices, scene.treasury, monkeypatch)
    assert done.exit_code == 0, done.output
    scene.run()
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


@ONLY_LONG
def test_each_device_signs_its_own_treasurys_and_the_inbox_says_whose_the_others_are(
    scene: RotatedScene, devices: dict[str, SoftwareDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a treasury is drained two devices have something to sign at once; neither is sent to the other's."""
    of_the_old = scene.payment()
    scene.run()
    old = scene.rotate()
    of_the_new = scene.payment()
    scene.run()
    assert [scene.instruction(each).treasury for each in (of_the_old, of_the_new)] == [old, scene.treasury]
    done = sign(scene, devices, scene.treasury, monkeypatch)
    assert done.exit_code == 0, done.output
    scene.run()
    refused = sign(scene, devices, scene.treasury, monkeypatch)
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert f"the signer of {old}, whose device it is" in said(refused)
    done = sign(scene, devices, old, monkeypatch)
    assert done.exit_code == 0, done.output
    scene.run()
    assert [scene.paid_to(each) for each in (of_the_old, of_the_new)] == [UNITS] * 2
    scene.require_books_equal_chain()


def test_a_drain_to_anybody_else_is_refused_before_the_device(
    scene: RotatedScene, devices: dict[str, SoftwareDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superuser who rewrites row and bytes together still names another treasury than the signer's own file."""
    payment = scene.payment(completed=False)
    old = scene.rotate()
    scene.order(old)
    scene.run()
    scene.rule()
    scene.rewrite_bytes(payment, thief(), UNITS)
    refused = sign(scene, devices, old, monkeypatch)
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "the active treasury is" in said(refused)
    assert devices[scene.seeds[old]].signatures == 1  # its login's


def test_a_compromised_treasurys_device_signs_moves_and_no_payout(
    scene: RotatedScene, devices: dict[str, SoftwareDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.payment()
    scene.run()
    old = scene.rotate("compromised")
    refused = sign(scene, devices, old, monkeypatch)
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "is compromised: nobody is paid from it" in said(refused)
    assert scene.instruction(payment).state == "handed_out"
