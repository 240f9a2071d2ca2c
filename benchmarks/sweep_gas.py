"""Gas of each way to sweep, on real contracts and one Anvil: keys, and so addresses and calldata, are the same in every run.

Anvil gives the refund of EIP-7702 for authorities that never existed as well: ``true_gas`` takes that back, and is then equal to
@ethereumjs/vm's gas of the same transactions.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, cast

from eth_abi.abi import encode
from eth_account import Account
from eth_account.datastructures import SignedSetCodeAuthorization
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from custody.chain import erc20
from custody.chain.erc20 import selector
from custody.chain.logs import TRANSFER_TOPIC, decode_transfer
from custody.destinations.contracts import SweepContracts, deploy_and_sweep_many_call, sweep_many_call
from custody.destinations.contracts.multicall3 import MULTICALL3
from workers.demo.contract_packages import MULTICALL3_PACKAGE
from workers.demo.contracts import SUPPLY, deploy_contracts, mint
from workers.demo.development_chain import ETHER, DevelopmentChain
from workers.demo.sweep_contracts import deploy_multicall3, deploy_sweep_contracts, name_operators
from workers.demo.wallet import Wallet
from workers.embedded import solidity

UNITS: Final = 5_000_000
GAS_EACH: Final = 150_000
BATCH_GAS: Final = 14_000_000
TOP_UP_GAS: Final = 21_000
CLEARED_SLOT_REFUND: Final = 4_800  # EIP-3529: the address' balance becomes zero
REFUND_QUOTIENT: Final = 5  # EIP-3529: at most a fifth of what was used
TOKENS: Final = ("USDT", "USDC", "plain")

_CREATED_AUTHORITY_REFUND: Final = 12_500  # EIP-7702: given for an authority that exists, by Anvil for each
_AGGREGATE3: Final = selector("aggregate3((address,bool,bytes)[])")
_AUTHORIZED: Final = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
_AUTHORIZATION: Final = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]


def true_gas(anvil_gas: int, addresses: int) -> int:
    """What a chain takes for a first EIP-7702 sweep of fresh addresses of which Anvil said ``anvil_gas``.

    Anvil's refund is above the cap of a fifth, a chain's is below: so what was used before refunds is known.
    Raises ValueError where that does not hold.
    """
    used = anvil_gas * REFUND_QUOTIENT // (REFUND_QUOTIENT - 1)
    given, due = (_CREATED_AUTHORITY_REFUND + CLEARED_SLOT_REFUND) * addresses, CLEARED_SLOT_REFUND * addresses
    if not due <= used // REFUND_QUOTIENT <= given:
        raise ValueError(f"the refund cap does not bind: {anvil_gas} gas of {addresses} addresses")
    return used - due


@dataclass(frozen=True, slots=True)
class Batch:
    """Addresses with coins: plain accounts, or forwarders by their salts."""

    accounts: tuple[LocalAccount, ...]

    @property
    def addresses(self) -> list[str]:
        return [account.address for account in self.accounts]


class SweepGas:
    """One development chain with real tokens; each method gives the gas of whole transactions."""

    def __init__(self, rpc_url: str, packages: Mapping[str, Path]) -> None:
        self.chain = DevelopmentChain(rpc_url)
        self.chain.set_automine(enabled=True)
        owner, operator, self._treasury = key("owner"), key("operator"), key("treasury").address
        for account in (owner, operator):
            self.chain.set_balance(account.address, 10_000 * ETHER)
        self._contracts = deploy_contracts(rpc_url, packages, owner)
        self._owner, self._operator = Wallet.open(rpc_url, owner), Wallet.open(rpc_url, operator)
        plain, sent = self._owner.deploy(_initcode("PlainToken"))
        self._owner.wait(sent)
        self.tokens = {"USDT": self._contracts.usdt, "USDC": self._contracts.usdc, "plain": plain}
        deploy_multicall3(self._owner, self.chain, packages[MULTICALL3_PACKAGE])
        # Multicall3 hands out the coins, many in a transaction: gas that nobody measures, and time that somebody waits.
        minter = selector("configureMinter(address,uint256)") + encode(["address", "uint256"], [MULTICALL3, SUPPLY])
        supply = mint(self._owner, self._contracts, self.tokens["USDT"], MULTICALL3, SUPPLY // 2)
        self._owner.wait_all([self._owner.send(self.tokens["USDC"], minter), supply])
        for token in TOKENS:  # the treasury holds some of each already, as it does for ever after the first sweep
            self._give(token, [self._treasury])
        name_operators(self.chain, self._sweeping, [operator.address])

    def close(self) -> None:
        self._owner.client.close()
        self._operator.client.close()
        self.chain.close()

    @cached_property
    def _sweeping(self) -> SweepContracts:
        return deploy_sweep_contracts(self._owner, self.chain, self._treasury)

    def top_up(self, token: str) -> int:
        """Gas of one address swept by a top-up and its own transfer: the same for each."""
        [account] = self.batch(f"top-up {token}", 1).accounts
        self._give(token, [account.address])
        self.chain.set_balance(account.address, ETHER)
        wallet = Wallet(self._owner.client, account)
        sent = wallet.send(self.tokens[token], erc20.encode_transfer(self._treasury, UNITS))
        return TOP_UP_GAS + wallet.wait(sent).gas_used

    def first(self, token: str, batch: Batch, *, spoiled: Sequence[str] = ()) -> int:
        """Gas, as a chain takes it, of a first EIP-7702 sweep of fresh addresses. ``spoiled`` are not swept."""
        self._give(token, _without(batch, spoiled))
        lent = [self._lend(account) for account in batch.accounts]
        call = sweep_many_call(self.tokens[token], batch.addresses, GAS_EACH)
        gas = self._sweep(self._sweeping.batcher, call, _without(batch, spoiled), lent)
        # A refused address clears no slot, and has no refund for it on either.
        return true_gas(gas, len(batch.accounts)) + CLEARED_SLOT_REFUND * len(spoiled)

    def repeat(self, token: str, batch: Batch, *, spoiled: Sequence[str] = ()) -> int:
        """Gas of a later sweep of the same addresses, which are delegated already."""
        good = _without(batch, spoiled)
        self._give(token, good)
        call = sweep_many_call(self.tokens[token], batch.addresses, GAS_EACH)
        return self._sweep(self._sweeping.batcher, call, good)

    def forwarders(self, token: str, name: str, count: int) -> tuple[int, int]:
        """Gas of making and flushing so many forwarders, and of flushing them again."""
        salts = [keccak(text=f"{name} {number}") for number in range(count)]
        addresses = [self._sweeping.forwarder(salt) for salt in salts]
        self._give(token, addresses)
        call = deploy_and_sweep_many_call(self.tokens[token], salts, GAS_EACH)
        first = self._sweep(self._sweeping.batcher, call, addresses)
        self._give(token, addresses)
        again = sweep_many_call(self.tokens[token], addresses, GAS_EACH)
        return first, self._sweep(self._sweeping.batcher, again, addresses)

    def authorized(self, batch: Batch) -> int:
        """Gas of USDC's transferWithAuthorization (EIP-3009) for each address, by Multicall3, each may fail alone."""
        usdc = self.tokens["USDC"]
        self._give("USDC", batch.addresses)
        calls = [(usdc, True, self._authorized_call(account)) for account in batch.accounts]
        return self._sweep(MULTICALL3, _AGGREGATE3 + encode(["(address,bool,bytes)[]"], [calls]), batch.addresses)

    def give_and_blacklist(self, token: str, address: str) -> None:
        """Coins that the address can receive, and never send."""
        self._give(token, [address])
        name = "addBlackList(address)" if token == "USDT" else "blacklist(address)"
        call = selector(name) + encode(["address"], [address])
        self._owner.wait(self._owner.send(self.tokens[token], call))

    def batch(self, name: str, count: int) -> Batch:
        """Fresh addresses, the same for one name in every run."""
        return Batch(tuple(key(f"{name} {number}") for number in range(count)))

    def _lend(self, account: LocalAccount) -> SignedSetCodeAuthorization:
        said = {"chainId": self._contracts.chain_id, "address": self._sweeping.delegate, "nonce": 0}
        return cast(SignedSetCodeAuthorization, account.sign_authorization(said))

    def _authorized_call(self, account: LocalAccount) -> bytes:
        domain = {
            "name": "USD Coin",
            "version": "2",
            "chainId": self._contracts.chain_id,
            "verifyingContract": self.tokens["USDC"],
        }
        values = (account.address, self._treasury, UNITS, 0, 2**40, keccak(text=account.address))
        message = {field["name"]: value for field, value in zip(_AUTHORIZATION, values, strict=True)}
        signed = account.sign_message(encode_typed_data(domain, {"TransferWithAuthorization": _AUTHORIZATION}, message))
        types = [field["type"] for field in _AUTHORIZATION]
        return _AUTHORIZED + encode(
            [*types, "uint8", "bytes32", "bytes32"],
            [*values, signed.v, signed.r.to_bytes(32), signed.s.to_bytes(32)],
        )

    def _give(self, token: str, addresses: Sequence[str]) -> None:
        name = "transfer(address,uint256)" if token == "USDT" else "mint(address,uint256)"
        calls = [
            (self.tokens[token], False, selector(name) + encode(["address", "uint256"], [address, UNITS]))
            for address in addresses
        ]
        data = _AGGREGATE3 + encode(["(address,bool,bytes)[]"], [calls])
        self._owner.wait(self._owner.send(MULTICALL3, data, gas=BATCH_GAS))

    def _sweep(
        self,
        to: str,
        data: bytes,
        swept: Collection[str],
        authorizations: Sequence[SignedSetCodeAuthorization] = (),
    ) -> int:
        """Gas of a batch that swept exactly ``swept``, by its logs: one that swept nothing would be cheap."""
        receipt = self._operator.wait(self._operator.send(to, data, gas=BATCH_GAS, authorizations=authorizations))
        moves = [decode_transfer(log) for log in receipt.logs if log.event == TRANSFER_TOPIC]
        found = sorted(move.sender for move in moves if move.recipient == self._treasury and move.amount == UNITS)
        if found != sorted(swept):
            raise RuntimeError(f"{len(found)} addresses were swept, expected {len(swept)}")
        return receipt.gas_used


def _without(batch: Batch, spoiled: Sequence[str]) -> list[str]:
    return [address for address in batch.addresses if address not in spoiled]


def key(name: str) -> LocalAccount:
    """The key of a name: known to everybody, and the same in every run."""
    return Account.from_key(keccak(text=f"sweep gas {name}"))


def _initcode(name: str) -> bytes:
    said = json.loads(solidity.BUILT.joinpath("test", f"{name}.json").read_text("utf-8"))
    return bytes.fromhex(said["bytecode"][2:])
