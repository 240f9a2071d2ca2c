"""R23 for a Safe: inbox, next, a lease for each owner, an answer that crashed away, and a machine without network."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from custody.releases import rows
from custody.releases.safe_rejection import begin_rejection
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.integration.conftest import APPROVED_RULES
from tests.safe_signer_scene import SafeSignerScene, safe_signer_scenes
from tests.signer_api_server import bearer, post, serving
from tests.signer_desk import Cli, at_desk, said
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import Fault, Model, SoftwareDevice
from workers.signer import SignerClient

Desk = Callable[[int], AbstractContextManager[tuple[Cli, SoftwareDevice]]]
"""``desk(place)``: the machine of one of the Safe's owners, with its own device and journal."""


@pytest.fixture(name="scene")
def _scene(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeSignerScene]:
    yield from safe_signer_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts)


@pytest.fixture(name="desk")
def _desk(scene: SafeSignerScene, api: str, monkeypatch: pytest.MonkeyPatch) -> Desk:
    @contextmanager
    def at(place: int) -> Generator[tuple[Cli, SoftwareDevice]]:
        with (
            SoftwareDevice(scene.owner_seeds[place], model=Model.SAFE_5) as device,
            at_desk(scene, device.path, api, monkeypatch) as cli,
        ):
            monkeypatch.setenv("SIGNER_JOURNAL_FILE", str(scene.folder / f"journal-{place}.jsonl"))
            monkeypatch.setenv("SIGNER_NAME", f"owner-{place}@vault")
            yield cli, device

    return at


def _inbox(cli: Cli) -> dict[str, object]:
    [found] = json.loads(cli("inbox", "--json").stdout)
    return found


def test_the_inbox_says_which_owners_signed_and_next_takes_up_what_was_interrupted(
    scene: SafeSignerScene, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    with desk(0) as (cli, device):
        assert _inbox(cli)["who_acts"] == "an owner of the Safe"
        assert _inbox(cli)["presses"] == 12
        with monkeypatch.context() as broken:
            broken.setattr(SignerClient, "submit_signature", _gone)
            with pytest.raises(_Crash):
                cli("next", "--yes", catch_exceptions=False)
        assert _inbox(cli)["resumed"] is True
        again = cli("next", "--yes")
        assert again.exit_code == 0, again.output
        assert "that signature is given again" in said(again)
        assert device.signatures == 1
        scene.run()
        assert _inbox(cli)["who_acts"] == f"another owner of the Safe; signed by {scene.owners[0].address}"
        twice = cli("next", "--yes")
        assert "another owner must" in said(twice)
        assert device.signatures == 1
    with desk(1) as (cli, device):
        device.fault = Fault.REJECT
        assert cli("next", "--yes").exit_code == EXIT_REJECTED
        scene.run()
        refused = cli("next", "--yes")
        assert refused.exit_code == EXIT_REFUSED
        assert "was answered already" in said(refused)
        assert "refused: device_rejected" in str(_inbox(cli)["who_acts"])
        device.fault = None
        assert cli("sign", str(scene.instruction(payment).id), "--yes").exit_code == 0
    scene.run()
    assert scene.instruction(payment).state == "final"


class _Crash(Exception):
    """The signer's process ends here."""


def _gone(*_: object, **__: object) -> None:
    raise _Crash


def test_each_owner_has_a_lease_and_the_same_owner_twice_waits(scene: SafeSignerScene, api: str, desk: Desk) -> None:
    payment = scene.handed_out_payment()
    path = f"/v1/instructions/{scene.instruction(payment).id}/lease"
    for place in (0, 1):
        body = {"signer": f"spare-{place}", "seconds": 60, "owner": scene.owners[place].address}
        assert post(api, path, body).status_code == 200
    [shown] = httpx.get(f"{api}/v1/instructions", headers=bearer()).json()["instructions"]
    assert {lease["signer"] for lease in shown["leases"]} == {"spare-0", "spare-1"}
    with desk(0) as (cli, device):
        assert str(_inbox(cli)["who_acts"]).startswith("an owner of the Safe; spare-1 is signing it; spare-0 is")
        refused = cli("next", "--yes")
        assert refused.exit_code == EXIT_REFUSED
        assert "spare-0 is signing it, until" in said(refused)
        assert device.screens == []
        body = {"signer": "spare-0", "seconds": 0, "owner": scene.owners[0].address.lower()}
        assert post(api, path, body).json() == {"lease": None}
        assert cli("next", "--yes").exit_code == 0
    wrong = {"signer": "x", "seconds": 1, "owner": "0x12"}
    assert post(api, path, wrong).status_code == 422


def test_owners_without_network_sign_bundles_and_the_answers_are_handed_in(
    scene: SafeSignerScene, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.handed_out_payment()
    for place in (2, 0):
        bundle = scene.folder / f"bundle-{place}.json"
        with desk(place) as (cli, device):
            made = cli("export", str(bundle))
            assert made.exit_code == 0, made.output
            assert "as pinned at block" in said(made)
            with monkeypatch.context() as away:
                away.setattr("custody.chain.rpc.ChainClient.__init__", _no_network)
                away.setattr(httpx.Client, "__init__", _no_network)
                signed = cli("sign", "--offline", str(bundle), "--yes")
                assert signed.exit_code == 0, signed.output
                assert "as pinned, says the machine that exported it" in said(signed)
                answer = bundle.with_name(f"{bundle.name}.answer")
                first = answer.read_text()
                answer.unlink()
                assert cli("sign", "--offline", str(bundle), "--yes").exit_code == 0
                assert answer.read_text() == first
            assert device.signatures == 1
            for _ in range(2):
                done = cli("submit", str(bundle))
                assert done.exit_code == 0, done.output
        scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == scene.units


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("a machine without network sent a request")


def _cancel(scene: SafeSignerScene, payment: UUID) -> None:
    with transaction(scene.database.engine("fleet_releases")) as connection:
        begin_rejection(connection, rows.lock(connection, scene.instruction(payment).id))


@ONLY_LONG
def test_the_rejection_is_signed_whatever_became_of_the_evidence(scene: SafeSignerScene, desk: Desk) -> None:
    """R1: a payout that nobody may sign any more must still be ended."""
    payment = scene.handed_out_payment()
    with desk(0) as (cli, _):
        assert cli("next", "--yes").exit_code == 0
    scene.run()
    _cancel(scene, payment)
    scene.write_book("ada")  # one approver of two: no payout to this recipient would be signed
    for place in (0, 1):
        with desk(place) as (cli, device):
            done = cli("next", "--yes")
            assert done.exit_code == 0, done.output
            assert "REJECTION of release" in said(done)
            assert "it spends the nonce on nothing" in said(done)
            assert device.signatures == 1
        scene.run()
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "cancelled"


@pytest.fixture(name="approved")
def _approved(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeSignerScene]:
    yield from safe_signer_scenes(
        token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts, rules=APPROVED_RULES
    )


def test_an_owners_machine_counts_the_approvals_itself(
    approved: SafeSignerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = approved
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    scene.run()
    scene.seal()
    assert scene.instruction(payment).state == "handed_out"
    with (
        serving(scene.database) as api,
        SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5) as device,
        at_desk(scene, device.path, api, monkeypatch) as cli,
    ):
        scene.write_trust(policy={"approvals": 3})
        assert "ada, bob of the pinned approvers approved exactly this, 3 must have" in said(cli("next", "--yes"))
        scene.write_trust(policy={"hash": "cd" * 32})
        assert "compare the new policy with its signatures and pin it" in said(cli("next", "--yes"))
        assert device.screens == []
        scene.write_trust()
        done = cli("next", "--yes")
        assert done.exit_code == 0, done.output
        assert "Approved by ada, bob, policy version 1" in said(done)
