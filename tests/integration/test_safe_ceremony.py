"""``fleet genesis init`` for a Safe: what is pinned is read from the chain, and what must not be is refused (R8, R16)."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account
from typer.testing import Result

from custody.policy import Genesis
from custody.policy.documents import document_hash, validated
from custody.policy.in_force import require_genesis_treasuries
from custody.policy.refusals import PolicyRefused
from custody.releases.safe_treasury import safes_of
from custody.safe import safe_differences
from custody.settings.chains import Chains, load_chains
from tests.integration.test_policy_ceremony import SEEDS, run
from tests.safe_world import OTHER, OwnedSafe, state_of
from tests.token_chain import TokenChain
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.trezor_device import SoftwareDevice


@pytest.fixture
def safe(token_chain: TokenChain, contracts: SafeContracts) -> Iterator[OwnedSafe]:
    made = OwnedSafe.make(token_chain.deployer, contracts, [Account.create() for _ in range(3)])
    yield made
    made.close()


def _chains_file(folder: Path, safe: OwnedSafe, *, owners: list[str] | None = None, threshold: int = 2) -> Path:
    path = folder / "chains.toml"
    path.write_text(
        f"""
[[chains]]
id = 31337
name = "dev"
genesis_hash = "{safe.wallet.client.genesis_hash()}"
rpc_urls = ["{safe.wallet.client.chain.url}"]
treasury = "{safe.address}"
safe = {{ owners = {owners or [owner.address for owner in safe.owners]}, threshold = {threshold} }}
fee_proxy = "{safe.contracts.factory}"
tokens = [{{ symbol = "ETH", address = "native", decimals = 18 }}]
"""
    )
    return path


def _init(folder: Path, chains: Path) -> Result:
    with SoftwareDevice(SEEDS["ada"]) as ada:
        answers = ["demo", "1", "0x" + "cc" * 32, "", "xpub-of-deposits", "1", "ada", ada.path]
        return run("genesis", "init", str(folder), "--chains-file", str(chains), given="\n".join(answers) + "\n")


def test_the_safe_is_pinned_as_the_chain_shows_it(safe: OwnedSafe, tmp_path: Path) -> None:
    chains = _chains_file(tmp_path, safe)
    made = _init(tmp_path / "policy", chains)
    assert made.exit_code == 0, made.output
    said = tomllib.loads((tmp_path / "policy" / "genesis.toml").read_text())
    genesis = validated(Genesis, said, file="genesis.toml")
    pinned = safes_of(genesis, None)[31337, safe.address].pinned
    state = state_of(safe)
    assert safe_differences(state, pinned) == ()
    assert (pinned.proxy_code_hash, pinned.guard) == (state.proxy_code_hash, None)
    for words in (*state.owners, state.singleton_code_hash, state.fallback_handler, "1.4.1"):
        assert words in made.output
    require_genesis_treasuries(genesis, load_chains(chains))


def test_a_chains_file_that_names_other_owners_stops_the_fleet(safe: OwnedSafe, tmp_path: Path) -> None:
    chains = _chains_file(tmp_path, safe)
    assert _init(tmp_path / "policy", chains).exit_code == 0
    said = tomllib.loads((tmp_path / "policy" / "genesis.toml").read_text())
    genesis = validated(Genesis, said, file="genesis.toml")
    chain = load_chains(chains).chain(31337)
    assert chain.safe is not None
    for changed in (
        None,
        chain.safe.model_copy(update={"threshold": 1}),
        chain.safe.model_copy(update={"owners": (OTHER,)}),
    ):
        with pytest.raises(PolicyRefused, match="as the genesis pins the treasury"):
            require_genesis_treasuries(genesis, Chains(chains=(chain.model_copy(update={"safe": changed}),)))


def test_a_safe_with_modules_founds_nothing(safe: OwnedSafe, tmp_path: Path) -> None:
    safe.change("enableModule", OTHER)
    made = _init(tmp_path / "policy", _chains_file(tmp_path, safe))
    assert made.exit_code == 2
    assert "it has modules, which move coins without its owners" in made.output
    assert not (tmp_path / "policy" / "genesis.toml").exists()


@pytest.mark.parametrize(
    ("owners", "threshold", "words"),
    [([OTHER, "0x" + "11" * 20], 2, "the chains file names"), (None, 1, "the chains file says 1")],
    ids=["owners", "threshold"],
)
def test_a_safe_that_the_chains_file_does_not_know_founds_nothing(
    safe: OwnedSafe, tmp_path: Path, owners: list[str] | None, threshold: int, words: str
) -> None:
    made = _init(tmp_path / "policy", _chains_file(tmp_path, safe, owners=owners, threshold=threshold))
    assert made.exit_code == 2
    assert words in made.output


def test_a_hash_of_before_the_proxys_pin_is_still_good(safe: OwnedSafe, tmp_path: Path) -> None:
    """The new pin is optional: a genesis that was signed without it keeps its hash and its meaning."""
    assert _init(tmp_path / "policy", _chains_file(tmp_path, safe)).exit_code == 0
    said = tomllib.loads((tmp_path / "policy" / "genesis.toml").read_text())
    with_pin = document_hash("genesis", said)
    del said["chains"][0]["treasury"]["proxy_code_hash"]
    older = validated(Genesis, said, file="genesis.toml")
    assert document_hash("genesis", said) != with_pin
    assert safe_differences(state_of(safe), safes_of(older, None)[31337, safe.address].pinned) == ()
