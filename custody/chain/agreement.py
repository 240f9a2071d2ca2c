"""What several nodes say about one transaction, weighed: pure rules of L13 and R17."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from custody.chain.assets import NATIVE
from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders
from custody.chain.logs import TRANSFER_TOPIC, MalformedLog, decode_transfer
from custody.chain.receipts import Receipt


class Disagreement(Enum):
    """Why a block's transaction cannot be acted on."""

    GONE = "a quorum has it elsewhere or nowhere"
    QUORUM = "too few nodes agree"


@dataclass(frozen=True, slots=True)
class Agreed:
    """A receipt that ``nodes`` nodes, a quorum, have in one block that is canonical on each of them.

    ``head``: the lowest of the blocks up to which these nodes count depth.
    """

    receipt: Receipt
    head: BlockHeader
    nodes: int


def weigh(
    answers: Sequence[ReceiptsAndHeaders], quorum: int, transaction_hash: str, block: tuple[int, str], highest: int
) -> Agreed | Disagreement:
    """Judge whether a transaction stands in ``block`` (number and hash) by what each node answered.

    No node counts depth above the block ``highest``; one whose head is above it has answered that block's header too.
    A node that does not reach ``block`` has no voice. Of several quorums the larger one is right; equal ones leave
    it open and nobody is blamed (L13).
    """
    voices: dict[Receipt | None, list[BlockHeader]] = {}
    number, block_hash = block
    for answer in answers:
        header = _header(answer, number)
        head = answer.head if answer.head.number <= highest else answer.headers.get(highest)
        if header is None or head is None or head.number < number:
            continue
        receipt = answer.receipts.get(transaction_hash)
        stands = receipt is not None and block_hash == receipt.block_hash == header.hash
        voices.setdefault(receipt if stands else None, []).append(head)
    sizes = sorted((len(heads) for heads in voices.values()), reverse=True)
    if not sizes or sizes[0] < quorum or sizes[1:2] == sizes[:1]:
        return Disagreement.QUORUM
    receipt, heads = _largest(voices)
    if receipt is None:
        return Disagreement.GONE
    return Agreed(receipt, min(heads, key=lambda head: head.number), len(heads))


def weigh_block(
    answers: Sequence[ReceiptsAndHeaders], quorum: int, block: tuple[int, str], highest: int
) -> tuple[BlockHeader, int] | Disagreement:
    """The same for a fact that no transaction told of: whether its block stands, under which head, and by how many."""
    voices: dict[bool, list[BlockHeader]] = {}
    number, block_hash = block
    for answer in answers:
        header = _header(answer, number)
        head = answer.head if answer.head.number <= highest else answer.headers.get(highest)
        if header is not None and head is not None and head.number >= number:
            voices.setdefault(header.hash == block_hash, []).append(head)
    sizes = sorted((len(heads) for heads in voices.values()), reverse=True)
    if not sizes or sizes[0] < quorum or sizes[1:2] == sizes[:1]:
        return Disagreement.QUORUM
    stands, heads = max(voices.items(), key=lambda voice: len(voice[1]))
    return (min(heads, key=lambda head: head.number), len(heads)) if stands else Disagreement.GONE


def _header(answer: ReceiptsAndHeaders, number: int) -> BlockHeader | None:
    return answer.head if answer.head.number == number else answer.headers.get(number)


def _largest(voices: Mapping[Receipt | None, list[BlockHeader]]) -> tuple[Receipt | None, list[BlockHeader]]:
    return max(voices.items(), key=lambda voice: len(voice[1]))


def carries(receipt: Receipt, *, token: str, log_index: int, recipient: str, units: int) -> bool:
    """Whether a receipt has this very transfer: for a token its Transfer log, for native coin success alone (L2, L8)."""
    if token == NATIVE:
        return receipt.succeeded
    for log in receipt.logs:
        if log.log_index == log_index and log.address == token and log.event == TRANSFER_TOPIC:
            try:
                transfer = decode_transfer(log)
            except MalformedLog:
                return False
            return (transfer.recipient, transfer.amount) == (recipient, units)
    return False
