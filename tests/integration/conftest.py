"""The chains that integration tests share: one for watching and holding, one for releasing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet, chain_world
from tests.release_scene import Scene, approval_scenes, scenes
from tests.safe_scene import SafeScene
from tests.safe_world import deploy
from tests.signer_api_server import serving
from tests.signer_desk import Cli, at_desk
from tests.signer_scene import SignerScene
from tests.token_chain import TokenChain, running_token_chain
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services
from workers.embedded.trezor_device import Model, SoftwareDevice


@pytest.fixture(scope="module")
def watched_world() -> Iterator[ChainWorld]:
    """One Anvil a file: some hundred blocks that come and go are what it bears. Each test has its own database."""
    with chain_world() as world:
        yield world


@pytest.fixture
def fleet(watched_world: ChainWorld, database: Database) -> WatchingFleet:
    return WatchingFleet(watched_world, database, watched_world.contracts.usdc)


@pytest.fixture(scope="session")
def token_chain(services: Services) -> Iterator[TokenChain]:
    """One Anvil for all of them; each test has its own treasury, database and MongoDB database."""
    with running_token_chain() as chain:
        yield chain


@pytest.fixture(scope="module")
def contracts(token_chain: TokenChain) -> SafeContracts:
    """The Safe's own contracts on that chain."""
    return deploy(token_chain.deployer)


@pytest.fixture
def scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[Scene]:
    yield from scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path)


APPROVED_RULES: list[dict[str, Any]] = [
    {
        "name": "known",
        "kind": "recipients",
        "purposes": ["release"],
        "sources": ["address_book"],
        "cool_down_seconds": 0,
    },
    {"name": "a-day", "kind": "limit_per_day", "currency": "USDT", "purposes": ["release"], "maximum": "250"},
    {"name": "two-persons", "kind": "approvals", "purposes": ["release"], "tiers": [{"from": "0", "k": 2}]},
    {"name": "payouts", "kind": "allow", "purposes": ["release"]},
    {"name": "into-the-treasury", "kind": "allow", "purposes": ["sweep"]},
]


@pytest.fixture
def approved_scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[Scene]:
    """The scene where two of three persons approve each release, and at most 250 USDT go out a day."""
    yield from approval_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, APPROVED_RULES)


# A signer's own machine, of whichever scene the test has ---------------------------------------------------------------


@pytest.fixture
def api(scene: Scene) -> Iterator[str]:
    """The signer API of the scene's database; its URL."""
    with serving(scene.database) as url:
        yield url


@pytest.fixture
def device(scene: Scene) -> Iterator[SoftwareDevice]:
    """The treasury's device; of a Safe the first owner's, who has a core model (R16)."""
    found = (
        SoftwareDevice(scene.owner_seeds[0], model=Model.SAFE_5)
        if isinstance(scene, SafeScene)
        else SoftwareDevice(scene.seed)
    )
    with found as device:
        yield device


@pytest.fixture
def cli(scene: SignerScene, api: str, device: SoftwareDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """``fleet signer`` on the machine of that device."""
    with at_desk(scene, device.path, api, monkeypatch) as cli:
        yield cli
