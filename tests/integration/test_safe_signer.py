"""A Safe's owners at their desks: API under uvicorn, core devices, and each refusal of the signer's machine (R2, R4, R16)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from custody.releases import rows
from custody.releases.safe_rejection import begin_rejection
from custody.settings.chains import Chains
from custody.store.engine import transaction
from custody.trezor import DeviceRejected
from custody.trezor.derivation import SAFE_OWNER_PATH
from custody.trezor.sentences import DeviceUnsupported
from tests.conftest import Database
from tests.counts import sampled
from tests.release_scene import UNITS, new_seed
from tests.safe_scene import SafeScene, safe_scenes
from tests.safe_world import OTHER
from tests.signer_api_server import client_at, serving
from tests.token_chain import TokenChain
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import Fault, Model, SoftwareDevice
from workers.signer import (
    Event,
    InstructionRefused,
    SignerClient,
    SigningDeskSettings,
    sign_instruction,
    sign_open_instructions,
)
from workers.signer.safe_checks import check_safe_instruction, describe_safe

FEE_CAP_WEI = 10**16


@pytest.fixture
def scene(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeScene]:
    yield from safe_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts)


@pytest.fixture(name="client")
def _client(scene: SafeScene) -> Iterator[SignerClient]:
    with serving(scene.database) as url, client_at(url) as client:
        yield client


def _sign(
    scene: SafeScene, client: SignerClient, device: SoftwareDevice, tmp_path: Path, chains: Chains | None = None
) -> tuple[bool, list[Event]]:
    events: list[Event] = []
    [payment] = scene.payments
    done = sign_instruction(
        client,
        chains or scene.step.chains,
        SigningDeskSettings(device.path, SAFE_OWNER_PATH, 5.0, FEE_CAP_WEI, lock_folder=tmp_path / "locks"),
        str(scene.instruction(payment).id),
        progress=events.append,
        confirm=lambda _checked, _screens: True,
    )
    return done, events


def test_two_desks_sign_one_after_another_and_the_seller_is_paid(
    scene: SafeScene, client: SignerClient, tmp_path: Path
) -> None:
    payment = scene.payment()
    scene.run()
    with SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5) as first:
        done, events = _sign(scene, client, first, tmp_path)
        assert done
        scene.run()
        claimed = client.instruction(str(scene.instruction(payment).id))
        assert (claimed.state, claimed.unsigned_kind) == ("handed_out", "safe_transaction")
        assert claimed.signed_by == (scene.owners[0].address,)
        again, waits = _sign(scene, client, first, tmp_path)
        assert not again
        assert f"{scene.owners[0].address} has signed" in waits[-1].text
        assert first.signatures == 1
    lines = "\n".join(next(event.lines for event in events if event.kind == "checked"))
    for words in (
        "100 USDT",
        scene.instruction(payment).recipient,
        "2 of 3 owners sign",
        "nobody yet",
        "0 of the Safe",
    ):
        assert words in lines
    with SoftwareDevice(scene.owner_seeds[2], model=Model.SAFE_5) as second:
        assert _sign(scene, client, second, tmp_path)[0]
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS


def test_a_desk_that_signed_waits_for_the_other_owner(scene: SafeScene, client: SignerClient, tmp_path: Path) -> None:
    scene.payment()
    scene.run()
    with SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5) as device:
        settings = SigningDeskSettings(device.path, SAFE_OWNER_PATH, 5.0, FEE_CAP_WEI, lock_folder=tmp_path / "locks")
        first = sign_open_instructions(client, scene.step.chains, settings, count=1)
        scene.run()
        assert (len(first.signed), first.errors) == (1, [])
        [found] = client.instructions()
        assert found.signed_by == (scene.owners[0].address,)
        assert found.waits_for_signer
        assert device.signatures == 1


def test_a_stranger_and_a_trezor_one_sign_nothing(scene: SafeScene, client: SignerClient, tmp_path: Path) -> None:
    payment = scene.payment()
    scene.run()
    with SoftwareDevice(new_seed(), model=Model.SAFE_5) as device:
        with pytest.raises(InstructionRefused, match="is no owner of the Safe"):
            _sign(scene, client, device, tmp_path)
        assert (device.screens, device.signatures) == ([], 0)
    with SoftwareDevice(scene.owner_seeds[0]) as one:
        with pytest.raises(DeviceUnsupported, match="a hash blind"):
            _sign(scene, client, one, tmp_path)
        assert (one.screens, one.signatures) == ([], 0)
    assert scene.submissions(payment) == []


def test_an_owners_no_is_handed_in_and_it_stays_out(scene: SafeScene, client: SignerClient, tmp_path: Path) -> None:
    payment = scene.payment()
    scene.run()
    with (
        SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5, fault=Fault.REJECT) as device,
        pytest.raises(DeviceRejected),
    ):
        _sign(scene, client, device, tmp_path)
    scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.rejected_reason is not None) == ("handed_out", True)
    scene.two_sign(payment)
    scene.run()
    assert scene.instruction(payment).state == "final"


CLAIMS: dict[str, dict[str, object]] = {
    "recipient": {"recipient": OTHER},
    "amount": {"amount": "99", "amount_units": "99000000"},
    "nonce": {"nonce": 1},
    "hash": {"signing_hash": "0x" + "00" * 32},
    "treasury": {"treasury": OTHER},
    "fee": {"max_total_fee_wei": str(FEE_CAP_WEI + 1)},
    "bytes": {"unsigned_bytes": "0x" + "00" * 576},
    "no bytes": {"unsigned_bytes": None},
}


@pytest.mark.parametrize("changed", sampled(CLAIMS.values()), ids=[name.replace(" ", "-") for name in sampled(CLAIMS)])
def test_a_lying_api_is_refused_on_the_signers_machine(
    scene: SafeScene, client: SignerClient, changed: dict[str, object]
) -> None:
    payment = scene.payment()
    scene.run()
    claimed = client.instruction(str(scene.instruction(payment).id))
    checked = check_safe_instruction(claimed, scene.step.chains, fee_cap_wei=FEE_CAP_WEI)
    assert describe_safe(checked)[0] == f"release {claimed.id}"
    with pytest.raises(InstructionRefused, match="is refused"):
        check_safe_instruction(claimed.model_copy(update=changed), scene.step.chains, fee_cap_wei=FEE_CAP_WEI)


def test_the_signers_own_file_says_whose_the_treasury_is(
    scene: SafeScene, client: SignerClient, tmp_path: Path
) -> None:
    scene.payment()
    scene.run()
    chain = scene.pinned
    for safe, words in (
        (None, "does not say that"),
        (chain.safe and chain.safe.model_copy(update={"owners": (Account.create().address,)}), "no owner of the Safe"),
    ):
        mine = Chains(chains=(chain.model_copy(update={"safe": safe}),))
        with (
            SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5) as device,
            pytest.raises(InstructionRefused, match=words),
        ):
            _sign(scene, client, device, tmp_path, mine)


def test_owners_sign_the_rejection_that_their_own_machines_make(
    scene: SafeScene, client: SignerClient, tmp_path: Path
) -> None:
    payment = scene.payment()
    scene.run()
    with transaction(scene.database.engine("fleet_releases")) as connection:
        begin_rejection(connection, rows.lock(connection, scene.instruction(payment).id))
    for seed in scene.owner_seeds[:2]:
        with SoftwareDevice(seed, model=Model.SAFE_5) as device:
            done, events = _sign(scene, client, device, tmp_path)
            assert done
            assert any(line.startswith("REJECTION of release") for event in events for line in event.lines)
            shown = "".join(line for screen in device.screens for line in screen)
            assert scene.chain.token not in shown
        scene.run()
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "cancelled"
    assert scene.paid_to(payment) == 0
