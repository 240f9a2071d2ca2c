"""One Anvil with our sweeping contracts, real USDC and Tether, and tokens that betray; deposit addresses are plain accounts."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from eth_account import Account
from eth_account.datastructures import SignedSetCodeAuthorization
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from custody.chain import CallRequest, ChainClient, ExecutionReverted, Receipt, erc20
from custody.chain.logs import TRANSFER_TOPIC, decode_transfer
from custody.destinations.contracts import (
    Outcome,
    SweepContracts,
    deploy_and_sweep_many_call,
    read_outcomes,
    sweep_many_call,
)
from tests.anvil_node import running_anvil
from tests.conftest import STATE_DIR
from workers.demo.contract_packages import CIRCLE_PACKAGE, REQUEST_NETWORK_PACKAGE, ContractBuild
from workers.demo.contracts import DeployedContracts, deploy_contracts, mint
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.sweep_contracts import deploy_sweep_contracts, name_operators
from workers.demo.wallet import Wallet
from workers.embedded import npm_packages, solidity

CHAIN_ID = 31337
GAS_EACH = 150_000
BATCH_GAS = 12_000_000
NATIVE = "native"


@dataclass
class BatchWorld:
    """``deployer`` mints; ``operator`` is the batcher's only one; ``outsider`` has coins and no rights."""

    chain: DevelopmentChain
    tokens: DeployedContracts
    contracts: SweepContracts
    treasury: Wallet
    deployer: Wallet
    operator: Wallet
    outsider: Wallet
    mischief: str
    plain: str
    stipend_sender: str

    @property
    def client(self) -> ChainClient:
        return self.deployer.client

    def account(self) -> LocalAccount:
        """A new deposit address and its key."""
        return Account.create()

    def delegated(self, count: int) -> list[LocalAccount]:
        """Deposit addresses that are delegated to our delegate already, by one transaction of anybody."""
        accounts = [self.account() for _ in range(count)]
        receipt = self.send(self.outsider, self.outsider.address, authorizations=[self.lend(each) for each in accounts])
        assert receipt.succeeded
        return accounts

    def lend(
        self, account: LocalAccount, to: str | None = None, *, chain_id: int = CHAIN_ID, nonce: int | None = None
    ) -> SignedSetCodeAuthorization:
        """The account's authorization for our delegate (or another)."""
        found = self.client.nonce(account.address) if nonce is None else nonce
        said = {"chainId": chain_id, "address": to or self.contracts.delegate, "nonce": found}
        return cast(SignedSetCodeAuthorization, account.sign_authorization(said))

    def give(self, token: str, addresses: Sequence[str], units: int) -> None:
        """Coins of a token, of the mischievous one or native to each address."""
        if token == NATIVE:
            for address in addresses:
                self.chain.set_balance(address, units)
            return
        if token in {self.mischief, self.plain}:
            calls = [(token, token_build(self, token).calldata("mint", address, units)) for address in addresses]
            self.deployer.wait_all([self.deployer.send(*call) for call in calls])
            return
        self.deployer.wait_all([mint(self.deployer, self.tokens, token, address, units) for address in addresses])

    def send(
        self,
        wallet: Wallet,
        to: str,
        data: bytes = b"",
        *,
        value: int = 0,
        gas: int = BATCH_GAS,
        authorizations: Sequence[SignedSetCodeAuthorization] = (),
    ) -> Receipt:
        """The receipt, also of a transaction that reverted."""
        sent = wallet.send(to, data, value=value, gas=gas, authorizations=authorizations)
        return wallet.outcomes([sent])[0]

    def sweep(
        self,
        token: str,
        destinations: Sequence[str],
        *,
        authorizations: Sequence[SignedSetCodeAuthorization] = (),
        gas_each: int = GAS_EACH,
    ) -> Receipt:
        """``sweepMany`` by the operator."""
        call = sweep_many_call(token, destinations, gas_each)
        return self.send(self.operator, self.contracts.batcher, call, authorizations=authorizations)

    def outcomes(self, token: str, destinations: Sequence[str], *, gas_each: int = GAS_EACH) -> list[Outcome]:
        """What a simulation of ``sweepMany`` answers the operator."""
        return self._simulated(sweep_many_call(token, destinations, gas_each), len(destinations))

    def forwarder_outcomes(self, token: str, salts: Sequence[bytes], *, gas_each: int = GAS_EACH) -> list[Outcome]:
        return self._simulated(deploy_and_sweep_many_call(token, salts, gas_each), len(salts))

    def _simulated(self, call: bytes, count: int) -> list[Outcome]:
        request = CallRequest(to=self.contracts.batcher, data=call, sender=self.operator.address)
        return read_outcomes(self.client.call(request), count)

    def balance(self, token: str, address: str) -> int:
        if token == NATIVE:
            return self.client.balance(address)
        return erc20.decode_uint256(self.client.call(CallRequest(to=token, data=erc20.encode_balance_of(address))))

    def balances(self, token: str, addresses: Sequence[str]) -> list[int]:
        return [self.balance(token, address) for address in addresses]

    def refused(self, sender: str, to: str, data: bytes) -> bool:
        """Whether a call of ``sender`` reverts."""
        try:
            self.client.call(CallRequest(to=to, data=data, sender=sender))
        except ExecutionReverted:
            return True
        return False

    def swept(self, receipt: Receipt, token: str) -> dict[str, int]:
        """What the token's own logs say went to the treasury, by its sender: all that accounting believes."""
        moves = [
            decode_transfer(log)
            for log in receipt.logs
            if log.event == TRANSFER_TOPIC and to_checksum_address(log.address) == to_checksum_address(token)
        ]
        return {move.sender: move.amount for move in moves if move.recipient == self.treasury.address}


@contextmanager
def batch_world(*arguments: str) -> Generator[BatchWorld]:
    packages = {
        name: npm_packages.fetch(name, STATE_DIR.resolve()) for name in (REQUEST_NETWORK_PACKAGE, CIRCLE_PACKAGE)
    }
    with running_anvil(*arguments) as rpc_url:
        chain = DevelopmentChain(rpc_url)
        owner = chain.new_account(10_000 * ETHER)
        tokens = deploy_contracts(rpc_url, packages, owner)
        deployer, operator, outsider, treasury = (
            Wallet.open(rpc_url, account) for account in (owner, *(chain.new_account(100 * ETHER) for _ in range(3)))
        )
        made = [
            deployer.deploy(build_for_tests(name).initcode())
            for name in ("MischiefToken", "PlainToken", "StipendSender")
        ]
        deployer.wait_all([sent for _, sent in made])
        contracts = deploy_sweep_contracts(deployer, chain, treasury.address)
        name_operators(chain, contracts, [operator.address])
        yield BatchWorld(
            chain, tokens, contracts, treasury, deployer, operator, outsider, *(address for address, _ in made)
        )
        for wallet in (deployer, operator, outsider, treasury):
            wallet.client.close()
        chain.close()


def build_for_tests(name: str) -> ContractBuild:
    """A contract of contracts/test."""
    return _read(f"test/{name}.json")


def own_build(name: str) -> ContractBuild:
    """A contract of contracts/."""
    return _read(f"{name}.json")


def token_build(world: BatchWorld, token: str) -> ContractBuild:
    return build_for_tests("MischiefToken" if token == world.mischief else "PlainToken")


def _read(path: str) -> ContractBuild:
    said: dict[str, Any] = json.loads(solidity.BUILT.joinpath(path).read_text("utf-8"))
    return ContractBuild(said["contract"], said["abi"], bytes.fromhex(said["bytecode"][2:]))
