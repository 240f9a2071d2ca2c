"""Blocks as a node shows them: their identity, and which receipts stand on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from custody.chain import wire
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
        number=wire.quantity(raw.get("number"), "number"),
        hash=wire.hash32(raw.get("hash"), "hash"),
        parent_hash=wire.hash32(raw.get("parentHash"), "parentHash"),
        timestamp=wire.quantity(raw.get("timestamp"), "timestamp"),
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
