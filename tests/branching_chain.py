"""A real chain whose blocks a test mines by hand, replaces, shortens, and brings back hash by hash.

Anvil gives a block the hash it had before when its parent, time, base fee and transactions are the same: so a chain flips
from A to B and back to A. Transactions that are mined side by side are ordered by their tips, of which no two are the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_canonical_address
from eth_utils.crypto import keccak

from tests.integration.chain_fixtures import MILLION, ChainWorld
from tests.marketplace import CHAIN_ID
from workers.demo.contracts import approve, mint
from workers.demo.wallet import Wallet

BUYERS: Final = 12
GAS: Final = 600_000  # the dearest transaction pays three payments at once
FEE: Final = 20 * 10**9  # wei a gas, above any base fee of a chain whose blocks are nearly empty
CALLS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class MinedBlock:
    """A block as it can be made again; ``transactions`` by hash, in their order."""

    number: int
    hash: str
    timestamp: str
    base_fee: str
    transactions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction that may be mined more than once, as long as ``buyer`` has not sent another one in its place."""

    hash: str
    raw: str
    buyer: str
    nonce: int


@dataclass
class BranchingChain:
    """The chain of ``world`` with buyers who hold ``token`` and may pay through the proxy and the batch contract."""

    world: ChainWorld
    token: str
    random: Random
    buyers: dict[str, LocalAccount] = field(default_factory=dict[str, LocalAccount])
    signed: dict[str, SignedTransaction] = field(default_factory=dict[str, SignedTransaction])
    floor: int = 0
    """No block at or below this height is ever replaced: what the buyers own stands there."""

    def __post_init__(self) -> None:
        wallets: list[Wallet] = []
        for _ in range(BUYERS):
            account = Account.from_key(self.random.randbytes(32))
            self.world.chain.set_balance(account.address, 10**21)
            self.buyers[account.address] = account
            wallets.append(Wallet(self.world.client, account))
        sent = [mint(self.world.deployer, self.world.contracts, self.token, each, MILLION) for each in self.buyers]
        for wallet in wallets:
            for spender in (self.world.contracts.fee_proxy, self.world.batch):
                sent.append(approve(wallet, self.token, spender, MILLION))
        self.world.deployer.wait_all(sent)
        self.world.chain.set_automine(enabled=False)
        self.floor = self.tip()

    def ask(self, *calls: tuple[str, list[Any]]) -> list[Any]:
        """The answers of several calls; none may fail."""
        answers: list[Any] = []
        for start in range(0, len(calls), CALLS_AT_ONCE):
            for answer in self.world.client.ask(calls[start : start + CALLS_AT_ONCE]):
                assert answer.error is None, answer.error
                answers.append(answer.result)
        return answers

    def tip(self) -> int:
        return int(self.world.rpc("eth_blockNumber"), 16)

    def newest(self, count: int) -> list[MinedBlock]:
        """The newest blocks, oldest first."""
        tip = self.tip()
        numbers = range(max(0, tip - count + 1), tip + 1)
        return [
            MinedBlock(
                int(raw["number"], 16),
                raw["hash"],
                raw["timestamp"],
                raw["baseFeePerGas"],
                tuple(raw["transactions"]),
            )
            for raw in self.ask(*(("eth_getBlockByNumber", [hex(number), False]) for number in numbers))
        ]

    def nonces(self) -> dict[str, int]:
        """The nonce of each buyer's next transaction."""
        counted = self.ask(*(("eth_getTransactionCount", [buyer, "latest"]) for buyer in self.buyers))
        return {buyer: int(count, 16) for buyer, count in zip(self.buyers, counted, strict=True)}

    def sign(self, buyer: str, nonce: int, to: str, data: bytes) -> str:
        """A transaction of a buyer's, not sent yet; returns its hash."""
        transaction: Any = {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "to": to_canonical_address(to),
            "value": 0,
            "data": data,
            "gas": GAS,
            "maxFeePerGas": FEE,
            "maxPriorityFeePerGas": 1 + self.random.randrange(10**9),
        }
        raw = bytes(self.buyers[buyer].sign_transaction(transaction).raw_transaction)
        transaction_hash = "0x" + keccak(raw).hex()
        self.signed[transaction_hash] = SignedTransaction(transaction_hash, "0x" + raw.hex(), buyer, nonce)
        return transaction_hash

    def mine(self, *blocks: Iterable[str]) -> None:
        """One block after another with these transactions."""
        self.world.chain.set_clock()
        for transactions in blocks:
            self._send(transactions)
            self.world.rpc("evm_mine")

    def mine_again(self, blocks: Sequence[MinedBlock]) -> None:
        """Make the blocks of a branch that was left once more, each with the hash that it had."""
        for block in blocks:
            self._send(block.transactions)
            self.world.rpc("evm_setNextBlockTimestamp", block.timestamp)
            self.world.rpc("anvil_setNextBlockBaseFeePerGas", block.base_fee)
            self.world.rpc("evm_mine")
        assert [each.hash for each in self.newest(len(blocks))] == [each.hash for each in blocks]

    def shorten(self, depth: int) -> None:
        """Take the newest blocks away; the chain is shorter until others are mined."""
        self.world.chain.shorten(depth)

    def replace(self, depth: int, kept: Sequence[tuple[str, int]]) -> None:
        """Put other blocks in the place of the newest ones, with these transactions: (hash, which of the new blocks)."""
        self.world.chain.reorganise(depth, [(bytes.fromhex(self.signed[each].raw[2:]), place) for each, place in kept])

    def rearranged(self, blocks: Sequence[MinedBlock]) -> list[tuple[str, int]]:
        """The blocks' transactions as another branch may hold them: some, none or all of them, elsewhere or not."""
        there = [(each, place) for place, block in enumerate(blocks) for each in block.transactions]
        how = self.random.choice(["gone", "same", "same", "moved", "moved", "some"])
        if how == "gone":
            return []
        if how == "same":
            return there
        lost: set[str] = set()
        kept: list[tuple[str, int]] = []
        for each, place in there:
            buyer = self.signed[each].buyer
            if buyer in lost or self.random.random() < (0.5 if how == "some" else 0.2):
                lost.add(buyer)  # and with it what the buyer sent after it
            else:
                kept.append((each, place))
        if how == "some":
            return kept
        return self._shuffled([each for each, _ in kept], len(blocks))

    def _shuffled(self, transactions: Sequence[str], blocks: int) -> list[tuple[str, int]]:
        """In another order and other blocks; those of one buyer stay in theirs."""
        of_buyer: dict[str, list[str]] = {}
        for each in transactions:
            of_buyer.setdefault(self.signed[each].buyer, []).append(each)
        turns = [buyer for buyer, own in of_buyer.items() for _ in own]
        self.random.shuffle(turns)
        places = sorted(self.random.randrange(blocks) for _ in turns)
        return [(of_buyer[buyer].pop(0), place) for buyer, place in zip(turns, places, strict=True)]

    def _send(self, transactions: Iterable[str]) -> None:
        calls = [("eth_sendRawTransaction", [self.signed[each].raw]) for each in transactions]
        if calls:
            self.ask(*calls)
