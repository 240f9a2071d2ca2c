"""R4, R20: coins that came through forwarders are paid out once the signer's own node shows their way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

from custody.chain.logs import (
    NATIVE_SWEPT_TOPIC,
    TRANSFER_TOPIC,
    TransferLog,
    decode_native_swept,
    decode_transfer,
)
from custody.destinations.contracts import deploy_and_sweep_many_call
from custody.destinations.forwarders import forwarder_at, forwarder_path, forwarder_salt
from custody.destinations.rotation import rotate_to_forwarders
from custody.settings.chains import NATIVE
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import sampled
from tests.native_scene import NativeScene
from tests.safe_signer_scene import SafeSignerScene
from tests.signer_desk import Cli, said
from tests.signer_scene import thief
from tests.token_chain import TokenChain
from workers.cli.signer import EXIT_REFUSED
from workers.demo.safe_contracts import SafeContracts
from workers.demo.sweep_contracts import deploy_sweep_contracts, name_operators
from workers.embedded.services import Services
from workers.embedded.trezor_device import SoftwareDevice

GAS_EACH = 150_000


@dataclass
class ForwarderScene(SafeSignerScene):
    """Buyers pay to forwarders of the Safe, which its batcher makes and flushes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with transaction(self.database.engine("fleet_operator")) as connection:
            self.account_id = rotate_to_forwarders(connection, self.step.chains)
        wallet = self.chain.deployer
        self.sweeping = deploy_sweep_contracts(wallet, self.chain.development, self.treasury)
        name_operators(self.chain.development, self.sweeping, [wallet.address])

    def deposit_address(self, index: int) -> str:
        return forwarder_at(self.treasury, self.account_id, index)

    def deposit_path(self, index: int) -> str:
        return forwarder_path(self.account_id, index)

    def send_from(self, index: int, units: int, to: str) -> TransferLog:
        assert to == self.treasury  # there is no other way
        wallet = self.chain.deployer
        call = deploy_and_sweep_many_call(self.market.token, [forwarder_salt(self.account_id, index)], GAS_EACH)
        receipt = wallet.wait(wallet.send(self.sweeping.batcher, call))
        if self.market.token != NATIVE:
            [log] = [decode_transfer(each) for each in receipt.logs if each.event == TRANSFER_TOPIC]
            return log
        [entry] = [each for each in receipt.logs if each.event == NATIVE_SWEPT_TOPIC]
        treasury, wei = decode_native_swept(entry)
        assert wei == units
        return TransferLog(
            receipt.chain_id, receipt.block_number, receipt.block_hash, receipt.transaction_hash,
            receipt.transaction_index, entry.log_index, cast(ChecksumAddress, NATIVE), entry.address, treasury, wei,
        )  # fmt: skip


class NativeForwarderScene(NativeScene, ForwarderScene):
    """The same where buyers pay the chain's own coin."""


@pytest.fixture(name="scene", params=sampled([ForwarderScene, NativeForwarderScene]), ids=sampled(["token", "native"]))
def _scene(
    request: pytest.FixtureRequest,
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[ForwarderScene]:
    scene: ForwarderScene = request.param(
        token_chain, database, services.mongo_url, mongo_database, tmp_path, None, contracts=contracts
    )
    yield scene
    scene.close()


def test_what_forwarders_brought_is_signed_for(scene: ForwarderScene, cli: Cli, device: SoftwareDevice) -> None:
    scene.handed_out_payment()
    done = cli("sign", "--yes")
    assert done.exit_code == 0, done.output
    assert device.signatures == 1


def _foreign_address(scene: ForwarderScene) -> None:
    other = thief()
    for statement in (
        "UPDATE public.derived_destinations SET address = :other",
        "UPDATE fleet.chain_facts SET recipient = :other WHERE direction = 'inbound'",
        "UPDATE public.derived_destination_sweeps SET from_address = :other",
    ):
        scene.market.execute(statement, other=other)


def _another_treasurys(scene: ForwarderScene) -> None:
    other = forwarder_at(to_checksum_address("0x" + "77" * 20), scene.account_id, 1)
    scene.market.execute("UPDATE public.derived_destinations SET address = :other", other=other)


def _other_index(scene: ForwarderScene) -> None:
    scene.market.execute("UPDATE public.derived_destinations SET derivation_index = 9")


def _no_path(scene: ForwarderScene) -> None:
    scene.market.execute("UPDATE public.derived_destinations SET derivation_path = 'create2/x/1'")


def _more(scene: ForwarderScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET amount = amount + 1")


def _other_log(scene: ForwarderScene) -> None:
    scene.market.execute("UPDATE public.derived_destination_sweeps SET log_index = log_index + 1")


@pytest.mark.parametrize(
    ("scene", "rewrite", "words"),
    sampled(
        [
            (ForwarderScene, _foreign_address, "is not the pinned treasury's forwarder at create2/"),
            (ForwarderScene, _another_treasurys, "is not the pinned treasury's forwarder at create2/"),
            (ForwarderScene, _other_index, "is not the pinned treasury's forwarder at create2/"),
            (ForwarderScene, _no_path, "expected create2/ACCOUNT/INDEX of a forwarder"),
            (ForwarderScene, _more, "the API says amount"),
            (NativeForwarderScene, _more, "the API says amount"),
            (NativeForwarderScene, _other_log, "is no NativeSwept"),
        ]
    ),
    indirect=["scene"],
)
def test_a_superuser_rewrites_where_they_came_from_and_the_signer_refuses(
    scene: ForwarderScene, cli: Cli, device: SoftwareDevice, rewrite: Callable[[ForwarderScene], None], words: str
) -> None:
    scene.handed_out_payment()
    scene.rule()
    rewrite(scene)
    refused = cli("sign", "--yes")
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert words in said(refused)
    assert (device.signatures, device.screens) == (0, [])
