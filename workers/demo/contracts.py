"""The real contracts of demo and tests, on a development chain.

Request Network's ERC20FeeProxy and EthereumFeeProxy, Circle's USDC (FiatTokenV2_2 behind FiatTokenProxy) and a full TetherToken,
whose `transfer` returns nothing. All transactions are sent before the first is waited for, so deployment
takes one or two blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress

from custody.chain import ZERO_ADDRESS, Receipt, TokenTraits, erc20
from workers.demo.contract_packages import (
    CIRCLE_PACKAGE,
    REQUEST_NETWORK_PACKAGE,
    ContractBuild,
    circle_contract,
    request_network_contract,
)
from workers.demo.wallet import Wallet

USDC_TRAITS: Final = TokenTraits("USDC", 6)
USDT_TRAITS: Final = TokenTraits("USDT", 6)
# A million million tokens: more than any demo hands out, far below uint256.
SUPPLY: Final = 10**18
_LOST_AND_FOUND: Final = "0x" + "11" * 20


@dataclass(frozen=True, slots=True)
class DeployedContracts:
    """Addresses on one development chain; `deployer` owns the tokens and mints them."""

    chain_id: int
    deployer: ChecksumAddress
    fee_proxy: ChecksumAddress
    usdc: ChecksumAddress
    usdt: ChecksumAddress
    block_number: int
    native_fee_proxy: ChecksumAddress | None = None

    @property
    def tokens(self) -> Mapping[str, TokenTraits]:
        """The allow-list: token address to traits."""
        return {self.usdc: USDC_TRAITS, self.usdt: USDT_TRAITS}


def deploy_contracts(rpc_url: str, packages: Mapping[str, Path], deployer: LocalAccount) -> DeployedContracts:
    """Deploy both proxies, USDC and USDT and return their addresses once all are mined.

    `packages`: unpacked npm packages by name, REQUEST_NETWORK_PACKAGE and CIRCLE_PACKAGE. `deployer`
    needs coins for gas. Raises MalformedPackage, NotDevelopmentChain, TransactionFailed.
    """
    request_network = packages[REQUEST_NETWORK_PACKAGE]
    wallet = Wallet.open(rpc_url, deployer)
    try:
        proxy_build = request_network_contract(request_network, "ERC20FeeProxy")
        tether_build = tether_token(request_network)
        fee_proxy, proxy_sent = wallet.deploy(proxy_build.initcode())
        native_build = request_network_contract(request_network, "EthereumFeeProxy")
        native_fee_proxy, native_sent = wallet.deploy(native_build.initcode())
        usdt, usdt_sent = wallet.deploy(tether_build.initcode(SUPPLY, "Tether USD", "USDT", 6))
        usdc, usdc_sent = _deploy_usdc(wallet, packages[CIRCLE_PACKAGE])
        receipts = wallet.wait_all([proxy_sent, native_sent, usdt_sent, *usdc_sent])
        return DeployedContracts(
            chain_id=wallet.client.chain.chain_id,
            deployer=wallet.address,
            fee_proxy=fee_proxy,
            usdc=usdc,
            usdt=usdt,
            block_number=max(receipt.block_number for receipt in receipts),
            native_fee_proxy=native_fee_proxy,
        )
    finally:
        wallet.client.close()


def tether_token(request_network: Path) -> ContractBuild:
    """Return the TetherToken build: blacklist, pause, fee, no return value from `transfer`."""
    return request_network_contract(request_network, "BadERC20", "BadERC20.sol")


def mint(wallet: Wallet, contracts: DeployedContracts, token: str, recipient: str, amount: int) -> str:
    """Send `amount` (smallest unit) of new USDC, or of the deployer's USDT; return the transaction's hash.

    `wallet` is the deployer's.
    """
    if token == contracts.usdc:
        return wallet.send(token, erc20.selector("mint(address,uint256)") + _two(recipient, amount))
    return wallet.send(token, erc20.encode_transfer(recipient, amount))


def approve(wallet: Wallet, token: str, spender: str, amount: int) -> str:
    """Let `spender` move `amount` (smallest unit) of the wallet's tokens; return the transaction's hash.

    Tether refuses to change one non-zero allowance into another: approve 0 between.
    """
    return wallet.send(token, erc20.encode_approve(spender, amount))


def pay_through_proxy(
    wallet: Wallet,
    contracts: DeployedContracts,
    *,
    token: str,
    recipient: str,
    amount: int,
    reference: bytes,
    fee_amount: int = 0,
    fee_address: str = ZERO_ADDRESS,
) -> str:
    """Pay as a buyer's browser does; return the transaction's hash. Amounts in smallest units.

    The proxy must be approved for amount + fee before.
    """
    return wallet.send(
        contracts.fee_proxy,
        erc20.encode_transfer_from_with_reference_and_fee(
            token=token,
            recipient=recipient,
            amount=amount,
            reference=reference,
            fee_amount=fee_amount,
            fee_address=fee_address,
        ),
    )


def pay_native_through_proxy(
    wallet: Wallet,
    contracts: DeployedContracts,
    *,
    recipient: str,
    amount: int,
    reference: bytes,
    fee_amount: int = 0,
    fee_address: str = ZERO_ADDRESS,
) -> str:
    """Pay native coin as a buyer's browser does; return the transaction's hash. Amounts in wei."""
    assert contracts.native_fee_proxy is not None
    call = erc20.encode_transfer_with_reference_and_fee(
        recipient=recipient, reference=reference, fee_amount=fee_amount, fee_address=fee_address
    )
    return wallet.send(contracts.native_fee_proxy, call, value=amount + fee_amount)


def deploy_build(wallet: Wallet, build: ContractBuild, *arguments: object) -> tuple[ChecksumAddress, Receipt]:
    """Deploy one contract and wait for it."""
    address, sent = wallet.deploy(build.initcode(*arguments))
    return address, wallet.wait(sent)


def _deploy_usdc(wallet: Wallet, package: Path) -> tuple[ChecksumAddress, list[str]]:
    checker, checker_sent = wallet.deploy(circle_contract(package, "SignatureChecker", "util").initcode())
    build = circle_contract(package, "FiatTokenV2_2", "v2", {"SignatureChecker": checker})
    implementation, implementation_sent = wallet.deploy(build.initcode())
    proxy_build = circle_contract(package, "FiatTokenProxy", "v1")
    usdc, usdc_sent = wallet.deploy(proxy_build.initcode(implementation))
    owner = wallet.address
    calls = [
        # The proxy's admin cannot call the token behind it, so the deployer hands that office away. Its
        # key is thrown away: nobody upgrades a demo token.
        proxy_build.calldata("changeAdmin", Account.create().address),
        build.calldata("initialize", "USD Coin", "USDC", "USD", 6, owner, owner, owner, owner),
        build.calldata("initializeV2", "USD Coin"),
        build.calldata("initializeV2_1", _LOST_AND_FOUND),
        build.calldata("initializeV2_2", [], "USDC"),
        build.calldata("configureMinter", owner, SUPPLY),
    ]
    sent = [wallet.send(usdc, call, gas=500_000) for call in calls]
    return usdc, [checker_sent, implementation_sent, usdc_sent, *sent]


def _two(address: str, amount: int) -> bytes:
    return erc20.encode_transfer(address, amount)[4:]
