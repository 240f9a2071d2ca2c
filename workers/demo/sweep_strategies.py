"""How a development fleet sweeps: its kind of addresses, its chains file's line, and the contracts that the way needs."""

import re
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import Connection, text

from custody.chain import CallRequest
from custody.chain.erc20 import selector
from custody.destinations.issuing import register_deposit_account, register_forwarder_account
from custody.destinations.rotation import rotate_to_forwarders
from custody.settings.chains import Chains
from workers.demo.contract_packages import MULTICALL3_PACKAGE
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.sweep_contracts import deploy_multicall3, deploy_sweep_contracts, name_operators
from workers.demo.wallet import Wallet
from workers.embedded.npm_packages import fetch
from workers.embedded.services import Services
from workers.embedded.state_folder import write_private

DemoStrategy = Literal["auto", "eip7702_batch", "eip3009_batch", "top_up_transfer", "create2_forwarder"]
STRATEGY_DEFAULT: Final[DemoStrategy] = "eip7702_batch"

_LINE: Final = re.compile(r"^(# )?sweep_strategy = .*$", re.MULTILINE)
_IS_OPERATOR: Final = selector("isOperator(address)")


def sweep_strategy_line(strategy: DemoStrategy) -> str:
    """The line of a chain in the chains file; ``auto`` leaves the choice to the planner."""
    return '# sweep_strategy = "auto"' if strategy == "auto" else f'sweep_strategy = "{strategy}"'


class StateFolderOfForwarders(Exception):
    """The folder's buyers pay to forwarders, which are swept by one way alone."""


def open_deposits(connection: Connection, chains: Chains, xpub: str, strategy: DemoStrategy | None) -> None:
    """Have buyers pay to addresses of ``xpub``, or to forwarders where they are swept so. Raises StateFolderOfForwarders."""
    active = connection.execute(
        text("SELECT kind FROM fleet.deposit_accounts WHERE state = 'active'")
    ).scalar_one_or_none()
    if strategy == "create2_forwarder":
        if active is None:
            register_forwarder_account(connection, chains)
        elif active == "hd_account":
            rotate_to_forwarders(connection, chains)
    elif active != "create2_forwarder":
        register_deposit_account(connection, xpub)
    elif strategy is not None:
        raise StateFolderOfForwarders(
            "this folder's buyers pay to forwarders: run with --strategy create2_forwarder, or set FLEET_STATE_DIR to a new "
            "folder"
        )


def set_strategy(chains_file: Path, strategy: DemoStrategy) -> None:
    """Change how the chain of a development fleet is swept from now on."""
    said = chains_file.read_text(encoding="utf-8")
    if not _LINE.search(said):  # a folder of before
        said = said.replace("\nfee_proxy = ", f"\n{sweep_strategy_line(STRATEGY_DEFAULT)}\nfee_proxy = ", 1)
    write_private(chains_file, _LINE.sub(sweep_strategy_line(strategy), said, count=1))


def prepare_sweeps(
    services: Services,
    chain: DevelopmentChain,
    deployer_key: Path,
    treasury: str,
    gas_payer: str,
    strategy: DemoStrategy | None,
) -> None:
    """Deploy our contracts and have the treasury admit the gas payer; Multicall3 too where EIP-3009 is asked for."""
    from eth_account import Account

    deployer = Account.from_key(deployer_key.read_text(encoding="utf-8").strip())
    wallet = Wallet.open(services.chain_rpc_url, deployer)
    try:
        if wallet.client.balance(wallet.address) < ETHER:
            chain.set_balance(wallet.address, 1_000 * ETHER)
        contracts = deploy_sweep_contracts(wallet, chain, treasury)
        asked = CallRequest(contracts.batcher, _IS_OPERATOR + bytes.fromhex(gas_payer[2:]).rjust(32, b"\0"))
        if not any(wallet.client.call(asked)):
            name_operators(chain, contracts, [gas_payer])
        if strategy == "eip3009_batch":
            deploy_multicall3(wallet, chain, fetch(MULTICALL3_PACKAGE, services.state_dir))
    finally:
        wallet.client.close()
