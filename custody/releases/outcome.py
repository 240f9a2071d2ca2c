"""What a mined release transaction really did: the token's Transfer log says, its status proves nothing (design §2.5)."""

from dataclasses import dataclass

from custody.chain import NATIVE, MalformedLog, Receipt
from custody.chain.logs import TRANSFER_TOPIC, TransferLog, decode_transfer
from custody.releases.rows import Instruction

NATIVE_LOG_INDEX = -1
"""A value transfer has no log (L8); its fact carries this instead of a log's place."""


@dataclass(frozen=True, slots=True)
class Paid:
    """Exactly the instructed amount went from treasury to recipient. Places as in the receipt."""

    log_index: int
    tx_ordinal: int


@dataclass(frozen=True, slots=True)
class NotPaid:
    """Nothing moved; ``reason`` says how that is known."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """Coins moved, but not as instructed; people must look (L9)."""

    reason: str
    sentence: str


def judge_receipt(instruction: Instruction, receipt: Receipt) -> Paid | NotPaid | Unclear:
    """What the receipt of an instruction's own transaction says. Pure."""
    if not receipt.succeeded:
        return NotPaid("reverted: the transaction was mined and reverted; no coins moved.")
    if instruction.token == NATIVE:
        # Top-level value transfer with status 1 (L8): the bytes were ours, so value and recipient are known.
        return Paid(NATIVE_LOG_INDEX, NATIVE_LOG_INDEX)
    try:
        moved = [
            (ordinal, decode_transfer(log))
            for ordinal, log in enumerate(receipt.logs)
            if log.address == instruction.token and log.event == TRANSFER_TOPIC
        ]
    except MalformedLog as error:
        return Unclear("transfer_log_malformed", f"the token's log could not be read ({error}).")
    from_treasury = [(place, log) for place, log in moved if log.sender == instruction.treasury]
    match from_treasury:
        case [(ordinal, log)] if _exact(instruction, log) and len(moved) == 1:
            return Paid(log.log_index, ordinal)
        case [] if not moved:
            return NotPaid("no_transfer: the transaction succeeded, but the token logged no transfer.")
        case _:
            found = ", ".join(f"{log.amount} to {log.recipient}" for _, log in moved)
            return Unclear(
                "transfer_differs",
                f"the token logged {found} instead of {instruction.amount_units} to {instruction.recipient}.",
            )


def _exact(instruction: Instruction, log: TransferLog) -> bool:
    return log.recipient == instruction.recipient and log.amount == instruction.amount_units
