"""The watcher and a Safe (R5, R16): our payouts are ours whoever sends them, everything else that it executes is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.chain import ChainClient, ChainConnection, erc20
from custody.chain.scanning import Watched, read_window
from custody.chain.treasury_scan import Outflow, unauthorised
from custody.store.engine import transaction
from tests.conftest import Database
from tests.release_scene import UNITS
from tests.safe_scene import SafeScene, safe_scenes
from tests.safe_world import OTHER
from tests.token_chain import TokenChain
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services


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


def _seen(scene: SafeScene, first: int) -> list[Outflow]:
    """What the watcher's role finds in every block from ``first`` on, as its own client reads them."""
    client = ChainClient(ChainConnection(31337, scene.chain.rpc_url))
    try:
        last = client.head().number
        reading = read_window(client, Watched.of(scene.pinned), first, last)
    finally:
        client.close()
    assert len(reading.blocks) == last - first + 1
    found: list[Outflow] = []
    with transaction(scene.database.engine("fleet_watcher")) as connection:
        for block in reading.blocks:
            found += unauthorised(connection, scene.pinned, block)
    return found


def _next_block(scene: SafeScene) -> int:
    return scene.chain.deployer.client.head().number + 1


@pytest.mark.parametrize("sender", ["our payer", "somebody else"], ids=["ours", "front-run"])
def test_a_payout_is_ours_whoever_sends_it(scene: SafeScene, sender: str) -> None:
    payment = scene.payment()
    scene.run()
    first = _next_block(scene)
    if sender == "somebody else":
        scene.execute_elsewhere(payment, scene.chain.development.new_account())
    scene.two_sign(payment)
    scene.run()
    assert scene.paid_to(payment) == UNITS
    assert _seen(scene, first) == []


def test_coins_that_leave_by_another_execution_are_not_ours(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    first = _next_block(scene)
    sent = scene.safe.run(scene.chain.token, erc20.encode_transfer(OTHER, 7))
    transfer, executed = _seen(scene, first)
    assert (transfer.transaction_hash, transfer.recipient, transfer.units) == (sent, OTHER, 7)
    assert (executed.transaction_hash, executed.units) == (sent, 0)
    assert "which the fleet never handed out to its owners" in executed.why
    assert scene.paid_to(payment) == 0


def test_what_its_owners_change_is_told(scene: SafeScene) -> None:
    first = _next_block(scene)
    scene.safe.change("changeThreshold", 1)
    [executed] = _seen(scene, first)
    assert executed.units == 0
    assert "the Safe executed 0x" in executed.why


def test_the_rejection_of_a_payout_is_ours(scene: SafeScene) -> None:
    scene.payment()
    scene.run()
    first = _next_block(scene)
    scene.safe.run(scene.safe.address)
    assert _seen(scene, first) == []
