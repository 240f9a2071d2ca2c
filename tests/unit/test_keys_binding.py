"""The keys agent's treasury: from a signed genesis, or a development chain's file with safekeeping off (R8, R17)."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from custody.destinations.keys.binding import ChainsFileBindings, GenesisBindings, bindings_of
from custody.destinations.keys.shapes import ShapeRefused
from custody.destinations.keys.spending import DaySpending
from custody.policy import PolicyRefused
from custody.policy.documents import document_hash
from custody.settings.chains import Chains
from custody.settings.environment import SettingsError, load_settings
from tests.policy_files import (
    STRANGER,
    TREASURY_BSC,
    USDT_BSC,
    genesis_file,
    genesis_said,
    write_signed,
)

XPUB = "xpub-of-this-seed"
ACCOUNT = {"name": "first", "path": "m/44'/60'/0'", "xpub_sha256": sha256(XPUB.encode()).hexdigest()}


class World:
    """A folder with a signed genesis, its pinned hash, and an agent's journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = genesis_said(deposit_accounts=[ACCOUNT])
        self.root = document_hash("genesis", self.said)
        self.journal = DaySpending(folder / "journal", 10**18)
        write_signed(folder / "genesis.toml", genesis_file(self.said))

    def bind(self, root: str | None = None, xpub: str = XPUB) -> GenesisBindings:
        return GenesisBindings(self.folder, root or self.root, [xpub], self.journal)

    def write_next(self, *people: str, **changed: Any) -> None:
        """Version 2, with the first one in history/."""
        (self.folder / "history").mkdir(exist_ok=True)
        for name in ("genesis.toml", "genesis.toml.sig"):
            target = name.replace("genesis", "genesis-1")
            (self.folder / "history" / target).write_text((self.folder / name).read_text())
        self.said = {**self.said, "version": 2, "previous": self.root, **changed}
        write_signed(self.folder / "genesis.toml", genesis_file(self.said, *people))

    def touch(self) -> None:
        """The file system's clock may not have moved between two writes of the same size."""
        path = self.folder / "genesis.toml"
        seen = path.stat().st_mtime_ns
        os.utime(path, ns=(seen, seen + 1_000_000_000))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def moved(said: dict[str, Any], treasury: str) -> list[dict[str, Any]]:
    """The chains with another treasury on the first, where the one before is draining (R22)."""
    first, *others = said["chains"]
    before = {**first["treasury"], "state": "draining"}
    return [{**first, "treasury": {**first["treasury"], "address": treasury}, "former_treasuries": [before]}, *others]


def test_treasury_and_tokens_are_the_genesis_s(world: World):
    found = world.bind().chain(56)
    assert (found.id, found.treasury, set(found.tokens)) == (56, TREASURY_BSC, {USDT_BSC})
    assert world.bind().source == f"genesis version 1 of {world.root[:16]}"
    with pytest.raises(ShapeRefused, match="chain: 5 is not known here; known are 1, 56"):
        world.bind().chain(5)


def test_another_pinned_hash_another_seed_and_too_few_signatures_are_refused(world: World):
    with pytest.raises(SettingsError, match="another genesis"):
        world.bind(root="ab" * 32)
    with pytest.raises(SettingsError, match="another seed, or another fleet's"):
        world.bind(xpub="xpub-of-another")
    write_signed(world.folder / "genesis.toml", genesis_file(world.said, "ada"))
    with pytest.raises(SettingsError, match="expected 2 approvers"):
        world.bind()


def test_a_new_version_binds_at_once_and_an_unsigned_one_stops_signatures_until_it_is_right(world: World):
    bound = world.bind()
    right = (world.folder / "genesis.toml").read_text()
    (world.folder / "genesis.toml").write_text(right.replace(TREASURY_BSC, STRANGER))
    world.touch()
    with pytest.raises(ShapeRefused, match="the genesis is not believed any more"):
        bound.chain(56)
    (world.folder / "genesis.toml").write_text(right)
    assert bound.chain(56).treasury == TREASURY_BSC
    world.write_next(chains=moved(world.said, STRANGER))
    world.touch()
    assert bound.chain(56).treasury == STRANGER


def test_an_older_version_is_refused_after_a_restart_too(world: World):
    first = {name: (world.folder / name).read_text() for name in ("genesis.toml", "genesis.toml.sig")}
    world.write_next(chains=moved(world.said, STRANGER))
    assert world.bind().chain(56).treasury == STRANGER
    for name, content in first.items():
        (world.folder / name).write_text(content)
    world.journal = DaySpending(world.folder / "journal", 10**18)
    with pytest.raises(SettingsError, match="expected at least 2, got 1: it is older"):
        world.bind()


def chains(**changed: Any) -> Chains:
    chain = {
        "id": 31337,
        "name": "anvil",
        "genesis_hash": "0x" + "11" * 32,
        "rpc_urls": ["http://127.0.0.1:8545", "http://[::1]:8545", "http://localhost:8545"],
        "treasury": TREASURY_BSC,
        "fee_proxy": STRANGER,
        "tokens": [
            {"symbol": "USDC", "address": USDT_BSC, "decimals": 6},
            {"symbol": "ETH", "address": "native", "decimals": 18},
        ],
    }
    return Chains.model_validate({"chains": [{**chain, **changed}]})


def test_only_a_development_chain_on_this_machine_may_do_without_a_genesis():
    assert ChainsFileBindings(chains()).chain(31337).treasury == TREASURY_BSC
    for changed in ({"id": 56}, {"rpc_urls": ["http://127.0.0.1:1", "http://10.0.0.1:8545"]}):
        with pytest.raises(SettingsError, match="set POLICY_DIR and GENESIS_HASH"):
            ChainsFileBindings(chains(**changed))


def test_without_a_genesis_safekeeping_must_be_off(world: World):
    with pytest.raises(SettingsError, match="POLICY_DIR and GENESIS_HASH are not set"):
        bindings_of(load_settings(), [XPUB], world.journal)
    with pytest.raises(SettingsError, match="GENESIS_HASH is not set"):
        bindings_of(load_settings(policy_dir=world.folder), [XPUB], world.journal)
    settings = load_settings(policy_dir=world.folder, genesis_hash=world.root)
    assert bindings_of(settings, [XPUB], world.journal).chain(56).treasury == TREASURY_BSC


def test_a_genesis_that_cannot_be_read_is_no_reason_to_do_without(tmp_path: Path):
    settings = load_settings(policy_dir=tmp_path, genesis_hash="ab" * 32, trezor_safekeeping_required=False)
    with pytest.raises((SettingsError, PolicyRefused)):
        bindings_of(settings, [XPUB], DaySpending(tmp_path / "journal", 1))
