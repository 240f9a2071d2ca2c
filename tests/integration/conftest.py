"""The chain that the integration tests of watching and holding share."""

from collections.abc import Iterator

import pytest

from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet, chain_world


@pytest.fixture(scope="session")
def watched_world() -> Iterator[ChainWorld]:
    """One Anvil for all of them; each test has its own database, payments and addresses."""
    with chain_world() as world:
        yield world


@pytest.fixture
def fleet(watched_world: ChainWorld, database: Database) -> WatchingFleet:
    return WatchingFleet(watched_world, database, watched_world.contracts.usdc)
