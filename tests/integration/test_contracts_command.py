"""``fleet contracts``: deployed at the same address on two chains, by a wallet that has no power, and checked (R8, R17, R20)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from typer.testing import CliRunner

from custody.chain import ChainClient, ChainConnection
from custody.destinations.contracts import CREATE2_DEPLOYER, sweep_contracts
from custody.destinations.contracts.checking import (
    check_contracts,
    deployer_fault,
    multicall3_fault,
)
from custody.destinations.contracts.multicall3 import MULTICALL3
from custody.policy.toml_text import toml_text
from custody.settings.environment import SettingsError, settings
from tests import policy_files
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR
from workers.cli import contracts
from workers.demo.contract_packages import MULTICALL3_PACKAGE
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.sweep_contracts import deploy_multicall3
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages

Run = Callable[..., Any]
OTHER_ID = 5757
PROXY = policy_files.PROXY
COIN = {"symbol": "ETH", "address": "native", "decimals": 18}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer()
    contracts.register(app)
    monkeypatch.setenv("COLUMNS", "240")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["contracts", *arguments])
    settings.cache_clear()


def chains_file(path: Path, client: ChainClient, treasury: str, urls: list[str]) -> Path:
    chain = {
        "id": client.chain_id(),
        "name": "anvil",
        "genesis_hash": client.genesis_hash(),
        "rpc_urls": urls,
        "treasury": treasury,
        "fee_proxy": PROXY,
        "tokens": [COIN],
    }
    path.write_text(toml_text({"chains": [chain]}), encoding="utf-8")
    return path


def genesis_folder(folder: Path, client: ChainClient, treasury: str) -> str:
    """A signed genesis of that one chain; its hash."""
    said = policy_files.genesis_said()
    chain = {
        "id": OTHER_ID,
        "name": "anvil",
        "genesis_hash": client.genesis_hash(),
        "treasury": {"kind": "eoa", "address": treasury, "device_fingerprint": "0a1b2c3d"},
        "tokens": [{**COIN, "currency": "ETH", "treasury_maximum": "100"}],
    }
    fleet = policy_files.Fleet(genesis_said={**said, "chains": [chain]})
    folder.mkdir()
    policy_files.write_signed(folder / "genesis.toml", policy_files.genesis_file(fleet.genesis_said))
    return fleet.genesis().root


def test_a_development_chain_is_ready_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    treasury, payer, other = (Account.create().address for _ in range(3))
    with running_anvil() as url:
        chain = DevelopmentChain(url)
        client = ChainClient(ChainConnection(31337, url))
        monkeypatch.setenv("CHAINS_FILE", str(chains_file(tmp_path / "chains.toml", client, treasury, [url])))
        with pytest.raises(SettingsError, match="the signed genesis'"):
            raise_of(run("deploy"))
        monkeypatch.setenv("TREZOR_SAFEKEEPING_REQUIRED", "false")
        settings.cache_clear()
        # A chain that has no CREATE2 deployer gets it too.
        chain._request("anvil_setCode", [CREATE2_DEPLOYER, "0x"])
        assert deployer_fault(client) is not None

        found = run("check", "--operator", payer)
        assert found.exit_code == 1
        assert "run fleet contracts deploy" in found.output
        for said in ("deployed", "is there"):
            found = run("deploy")
            assert (found.exit_code, said in found.output) == (0, True), found.output
        assert deployer_fault(client) is None
        assert f"gas payer {payer} is no operator" in run("check", "--operator", payer).output
        for said in ("named", "are the gas payers"):
            found = run("operators", "--operator", payer)
            assert (found.exit_code, said in found.output) == (0, True), found.output
        found = run("check", "--operator", payer, "--json")
        assert found.exit_code == 0
        made = sweep_contracts(treasury)
        assert json.loads(found.output) == [
            {
                "chain_id": 31337,
                "treasury": treasury,
                "batcher": made.batcher,
                "delegate": made.delegate,
                "operators": [payer],
                "faults": [],
            }
        ]
        assert client.balance(treasury) == 0
        found = run("check", "--operator", other)
        assert found.exit_code == 1
        assert f"gas payer {other} is no operator" in found.output
        assert f"operator {payer} is none of our gas payers" in found.output
        assert run("check", "--operator", payer[:-1]).exit_code == 2

        assert check_contracts(client, made, [payer]).faults == ()
        chain._request("anvil_setCode", [made.delegate, "0x00"])
        [fault] = check_contracts(client, made, [payer]).faults
        assert f"delegate {made.delegate}: expected code" in fault
        chain.close()
        client.close()
        assert run("check", "--operator", payer).exit_code == 1
    assert run("check", "--operator", payer).exit_code == 2  # nobody answers


def test_elsewhere_people_sign_in_a_wallet_of_their_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    treasury, anybody, payer = Account.create(), Account.create(), Account.create().address
    with running_anvil("--chain-id", str(OTHER_ID)) as url:
        client = ChainClient(ChainConnection(OTHER_ID, url))
        for account in (treasury, anybody):
            client.ask([("anvil_setBalance", [account.address, hex(ETHER)])])
        urls = [url, url.replace("127.0.0.1", "localhost")]
        monkeypatch.setenv("CHAINS_FILE", str(chains_file(tmp_path / "chains.toml", client, treasury.address, urls)))
        monkeypatch.setenv("POLICY_DIR", str(tmp_path / "policy"))
        monkeypatch.setenv("GENESIS_HASH", genesis_folder(tmp_path / "policy", client, treasury.address))

        assert run("deploy", "--to", str(tmp_path)).exit_code == 0
        made = sweep_contracts(treasury.address)
        assert client.code(made.batcher) == b""  # nothing is sent by us
        sign(client, anybody, tmp_path / "deploy-anvil.json")
        assert client.code(made.batcher) == made.batcher_code
        assert "is there" in run("deploy", "--to", str(tmp_path)).output

        assert run("operators", "--operator", payer, "--to", str(tmp_path)).exit_code == 0
        path = tmp_path / "operators-anvil.json"
        assert json.loads(path.read_text())["from"] == treasury.address
        sign(client, anybody, path)  # anybody may try
        assert run("check", "--operator", payer).exit_code == 1
        sign(client, treasury, path)
        assert run("check", "--operator", payer).exit_code == 0

        # A chains file that names another treasury than the genesis is refused before a node is asked.
        chains_file(tmp_path / "chains.toml", client, Account.create().address, urls)
        with pytest.raises(SettingsError, match="the genesis"):
            raise_of(run("deploy"))
        client.close()


def test_multicall3_is_used_only_where_it_is_the_genuine_one() -> None:
    with running_anvil() as url:
        chain = DevelopmentChain(url)
        wallet = Wallet.open(url, chain.new_account())
        assert "no Multicall3" in (multicall3_fault(wallet.client) or "")
        chain._request("anvil_setCode", [MULTICALL3, "0x6001"])
        assert "its deployer's key is known" in (multicall3_fault(wallet.client) or "")
        chain._request("anvil_setCode", [MULTICALL3, "0x"])
        deploy_multicall3(wallet, chain, npm_packages.fetch(MULTICALL3_PACKAGE, STATE_DIR.resolve()))
        assert multicall3_fault(wallet.client) is None
        wallet.client.close()
        chain.close()


def sign(client: ChainClient, account: LocalAccount, path: Path) -> None:
    """What a person's wallet does with the file: nonce, gas and fees are its own."""
    said = json.loads(path.read_text())
    said.pop("from", None)
    base_fee, priority = client.fees()
    said |= {"type": 2, "nonce": client.nonce(account.address), "gas": 3_000_000}
    said |= {"maxFeePerGas": 2 * base_fee + priority, "maxPriorityFeePerGas": priority}
    wallet = Wallet(client, account)
    wallet.outcomes([client.send_raw(bytes(account.sign_transaction(said).raw_transaction))])


def raise_of(result: Any) -> None:
    if result.exception is not None:
        raise result.exception
