"""A chain of accounts and nonces alone, deterministic and in this process: pools that lose, delay and refuse, blocks, reorgs.

Anvil makes a few blocks a second; a fuzz of nonces needs thousands, and to know which of them holds what. Accepts and orders
transactions as a node does: by nonce, a replacement at a tenth more, none below the block's base fee.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, Final

from eth_utils.crypto import keccak

from custody.chain import (
    AlreadyKnown,
    CallRequest,
    NonceTooLow,
    Receipt,
    ReceiptsAndHeaders,
    ReplacementUnderpriced,
    SendOutcomeUnknown,
    SendRefused,
)
from custody.chain.blocks import BlockHeader
from custody.chain.node_errors import PHRASES, classify
from custody.chain.rpc import AccountState
from custody.chain.signed_bytes import SignedTransaction, read_signed

GAS: Final = 21_000
RECENT: Final = 64  # blocks; nothing that is looked for is older
REFUSALS: Final = [words for words, kind in PHRASES.items() if kind not in (AlreadyKnown, NonceTooLow)]


@dataclass(frozen=True, slots=True)
class Block:
    header: BlockHeader
    transactions: tuple[SignedTransaction, ...]


@dataclass
class NonceChain:
    """``faults`` on: what is sent may be lost, late, refused, or taken without an answer."""

    chain_id: int
    random: Random
    balance_wei: int = 10**24
    faults: bool = True
    base_fee: int = 10**9
    blocks: list[Block] = field(default_factory=list[Block])
    pool: dict[tuple[str, int], SignedTransaction] = field(default_factory=dict[tuple[str, int], SignedTransaction])
    late: list[SignedTransaction] = field(default_factory=list[SignedTransaction])
    counts: Counter[str] = field(default_factory=Counter[str])
    made: int = 0

    def __post_init__(self) -> None:
        self._append(())

    # What happens to it ------------------------------------------------------------------------------------------

    def mine(self, places: int) -> None:
        """One more block with at most ``places`` transactions: each sender's next nonce, if it pays the base fee."""
        taken: list[SignedTransaction] = []
        nonces = {sender: self.nonce(sender) for sender, _ in self.pool}
        for sender in sorted(nonces):
            while len(taken) < places and (found := self.pool.get((sender, nonces[sender]))) is not None:
                if found.bid.max_fee < self.base_fee:
                    break
                taken.append(found)
                nonces[sender] += 1
        self._append(tuple(taken))
        for each in taken:
            del self.pool[each.sender, each.nonce]
        self.pool = {(s, n): each for (s, n), each in self.pool.items() if n >= self.nonce(s)}

    def reorganise(self, depth: int) -> None:
        """Other blocks in the place of the newest ones; what those held goes back to the pool, or nowhere."""
        depth = min(depth, len(self.blocks) - 1)
        gone = [each for block in self.blocks[len(self.blocks) - depth :] for each in block.transactions]
        del self.blocks[len(self.blocks) - depth :]
        self.counts.subtract(each.sender for each in gone)
        for each in gone:
            if self.random.random() < 0.5:
                self._admit(each)
        for _ in range(depth + 1):
            self._append(())

    def drop(self) -> None:
        """The pool forgets some of what it has."""
        self.pool = {key: each for key, each in self.pool.items() if self.random.random() < 0.5}

    def arrive(self) -> None:
        """What was late comes to the pool, which takes it or not."""
        for each in self.late:
            self._admit(each)
        self.late.clear()

    def mined(self) -> list[SignedTransaction]:
        return [each for block in self.blocks for each in block.transactions]

    def _append(self, transactions: tuple[SignedTransaction, ...]) -> None:
        self.made += 1
        number = len(self.blocks)
        parent = self.blocks[-1].header.hash if self.blocks else "0x" + "00" * 32
        block_hash = "0x" + keccak(text=f"{parent} {self.made}").hex()
        self.blocks.append(
            Block(BlockHeader(number, block_hash, parent, 1_700_000_000 + number, self.base_fee), transactions)
        )
        self.counts.update(each.sender for each in transactions)

    def _admit(self, each: SignedTransaction) -> SendRefused | None:
        """The pool takes it, or says why not."""
        if each.nonce < self.nonce(each.sender):
            return NonceTooLow(self.chain_id, "node", "nonce too low")
        standing = self.pool.get((each.sender, each.nonce))
        if standing is not None and standing.hash == each.hash:
            return AlreadyKnown(self.chain_id, "node", "already known")
        if standing is not None and not (
            10 * each.bid.max_fee >= 11 * standing.bid.max_fee
            and 10 * each.bid.priority >= 11 * standing.bid.priority
            and each.bid.priority > standing.bid.priority
        ):
            return ReplacementUnderpriced(self.chain_id, "node", "replacement transaction underpriced")
        self.pool[each.sender, each.nonce] = each
        return None

    # What a client of it sees ------------------------------------------------------------------------------------

    def send_raw(self, raw: bytes) -> str:
        each = read_signed(raw)
        fate = self.random.random() if self.faults else 1.0
        if fate < 0.05:
            return each.hash  # taken, and lost
        if fate < 0.10:
            self.late.append(each)
            return each.hash
        if fate < 0.15:
            words = self.random.choice(REFUSALS)
            raise classify(words)(self.chain_id, "node", words)
        if fate < 0.25:
            if fate < 0.20:
                self._admit(each)
            raise SendOutcomeUnknown(self.chain_id, "node", "no answer in time")
        refused = self._admit(each)
        if refused is not None:
            raise refused
        return each.hash

    def head(self) -> BlockHeader:
        return self.blocks[-1].header

    def fees(self) -> tuple[int, int]:
        return self.base_fee, 10**8

    def nonce(self, address: str, block: int | None = None) -> int:
        if block is None:
            return self.counts[address]
        return sum(each.sender == address for one in self.blocks[: block + 1] for each in one.transactions)

    def ask(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Blocks with their transactions, as eth_getBlockByNumber shows them."""
        [(_, [number, _])] = calls
        shown = [
            {"from": each.sender, "nonce": hex(each.nonce), "hash": each.hash, "yParity": "0x0", "r": "0x1", "s": "0x1"}
            for each in self.blocks[int(number, 16)].transactions
        ]
        return [SimpleNamespace(error=None, result={"transactions": shown})]

    def accounts(self, addresses: Collection[str]) -> dict[str, AccountState]:
        return {each: AccountState(self.balance_wei, self.nonce(each)) for each in addresses}

    def estimate_gas(self, request: CallRequest) -> int:
        return GAS

    def known(self, hashes: Collection[str]) -> frozenset[str]:
        there = {each.hash for each in self.pool.values()}
        there |= {each.hash for block in self.blocks[-RECENT:] for each in block.transactions}
        return frozenset(hashes) & there

    def receipts_and_headers(self, hashes: Collection[str]) -> ReceiptsAndHeaders:
        wanted = set(hashes)
        receipts: dict[str, Receipt] = {}
        headers: dict[int, BlockHeader] = {}
        for block in self.blocks[-RECENT:]:
            for index, each in enumerate(block.transactions):
                if each.hash in wanted:
                    headers[block.header.number] = block.header
                    receipts[each.hash] = self._receipt(each, index, block.header)
        return ReceiptsAndHeaders(self.head(), receipts, headers)

    def _receipt(self, each: SignedTransaction, index: int, header: BlockHeader) -> Receipt:
        sender: Any = each.sender
        return Receipt(
            self.chain_id,
            each.hash,
            index,
            header.number,
            header.hash,
            1,
            sender,
            sender,
            None,
            GAS,
            self.base_fee,
            0,
            (),
        )
