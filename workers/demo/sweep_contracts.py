"""What sweeps on a development chain: our contracts and Multicall3, deployed by any wallet; operators named without a device.

In production people do it: ``fleet contracts deploy`` and ``fleet contracts operators`` (docs/custody/sweep-contracts.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from custody.destinations.contracts import CREATE2_DEPLOYER, SweepContracts, set_operators_call, sweep_contracts
from custody.destinations.contracts.deployment import CREATE2_DEPLOYER_SENDER, CREATE2_DEPLOYER_TRANSACTION
from custody.destinations.contracts.multicall3 import MULTICALL3, MULTICALL3_DEPLOYER
from workers.demo.contract_packages import multicall3_deployment
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.wallet import Wallet

DEPLOYMENT_GAS: Final = 3_000_000  # it takes 1.3 million


def deploy_sweep_contracts(wallet: Wallet, chain: DevelopmentChain, treasury: str) -> SweepContracts:
    """Deploy them where they are missing, the CREATE2 deployer too. Raises TransactionFailed."""
    contracts = sweep_contracts(treasury)
    if not wallet.client.code(CREATE2_DEPLOYER):
        chain.set_balance(CREATE2_DEPLOYER_SENDER, ETHER)
        wallet.wait(wallet.client.send_raw(CREATE2_DEPLOYER_TRANSACTION))
    if not wallet.client.code(contracts.batcher):
        wallet.wait(wallet.send(CREATE2_DEPLOYER, contracts.deployment, gas=DEPLOYMENT_GAS))
    return contracts


def name_operators(chain: DevelopmentChain, contracts: SweepContracts, operators: Sequence[str]) -> str:
    """Have the treasury name the batcher's operators, all of them; the transaction's hash. Its key is not needed.

    Raises RuntimeError.
    """
    return chain.send_as(contracts.treasury, contracts.batcher, set_operators_call(operators))


def deploy_multicall3(wallet: Wallet, chain: DevelopmentChain, package: Path) -> None:
    """Put the genuine Multicall3 where it is on every chain, unless it is there. Raises MalformedPackage, TransactionFailed."""
    if not wallet.client.code(MULTICALL3):
        chain.set_balance(MULTICALL3_DEPLOYER, ETHER)
        wallet.wait(wallet.client.send_raw(multicall3_deployment(package)))
