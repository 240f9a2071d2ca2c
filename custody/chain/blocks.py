"""Blocks as a node shows them: their identity, what they hold, and which receipts stand on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from eth_typing import ChecksumAddress

from custody.chain import wire
from custody.chain.logs import Log
from custody.chain.receipts import Receipt


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """A block's identity. `timestamp` in seconds since the epoch; `base_fee` in wei, None before EIP-1559."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    base_fee: int | None = None


@dataclass(frozen=True, slots=True)
class BlockTransaction:
    """A transaction as its block carries it: what it asks for, not what came of it. `value` in wei.

    `data` is kept of the treasury's own transactions alone.
    """

    hash: str
    index: int
    sender: ChecksumAddress
    to: ChecksumAddress | None
    """None for a contract's creation."""
    value: int
    nonce: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ScannedBlock:
    """A block with what concerns the fleet, as one node shows it; every log's block hash is the header's.

    `transactions`: those that carry native coin, or come from the treasury. `logs`: the Transfers of accepted tokens and
    the fee proxies' events, in log order, whoever received them.
    `treasury_balance` (wei) and `treasury_nonce` (transactions sent) are the treasury's after this block; None inside
    a window of several blocks, where only the last one's is asked. `former` has the same of former treasuries, by address.
    """

    header: BlockHeader
    transactions: tuple[BlockTransaction, ...]
    logs: tuple[Log, ...]
    treasury_balance: int | None
    treasury_nonce: int | None
    former: Mapping[str, tuple[int | None, int | None]] = field(
        default_factory=dict[str, tuple[int | None, int | None]]
    )

    def at(self, treasury: str) -> "ScannedBlock":
        """The block as a chain's treasury sees it: balance and nonce are that one's. The active one is not in `former`."""
        if treasury not in self.former:
            return self
        balance, nonce = self.former[treasury]
        return replace(self, treasury_balance=balance, treasury_nonce=nonce)


@dataclass(frozen=True, slots=True)
class ReceiptsAndHeaders:
    """Receipts read together with the head and the headers of their blocks.

    A transaction without receipt is in no block that this node follows and has no key in `receipts`.
    """

    head: BlockHeader
    receipts: Mapping[str, Receipt]
    headers: Mapping[int, BlockHeader]

    def canonical(self, transaction_hash: str) -> Receipt | None:
        """Return the receipt if its block is the one the node has at that height, else None.

        Between the two requests a reorganisation may have replaced the block.
        """
        receipt = self.receipts.get(transaction_hash)
        if receipt is None:
            return None
        header = self.headers.get(receipt.block_number)
        return receipt if header is not None and header.hash == receipt.block_hash else None


def read_header(value: object) -> BlockHeader:
    """Return a raw block's identity. Raises MalformedAnswer."""
    raw = wire.member(value, "block")
    base_fee = raw.get("baseFeePerGas")
    return BlockHeader(
        number=wire.quantity(raw.get("number"), "number", wire.COUNT_MAXIMUM),
        hash=wire.hash32(raw.get("hash"), "hash"),
        parent_hash=wire.hash32(raw.get("parentHash"), "parentHash"),
        timestamp=wire.quantity(raw.get("timestamp"), "timestamp", wire.TIMESTAMP_MAXIMUM),
        base_fee=None if base_fee is None else wire.quantity(base_fee, "baseFeePerGas"),
    )


def header_at(number: int) -> Callable[[object], BlockHeader | None]:
    """Return a reader of the block at a height, None where the node has none; it raises MalformedAnswer for another block."""

    def read(value: object) -> BlockHeader | None:
        if value is None:
            return None
        header = read_header(value)
        if header.number != number:
            raise wire.MalformedAnswer(f"block: asked for {number}, got {header.number}")
        return header

    return read
