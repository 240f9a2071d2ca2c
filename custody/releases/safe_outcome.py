"""What an execution of a payout's SafeTx did: the Safe's log says that it was this one, the token's Transfer that it paid.

Pure. Both must be there: a receipt's status proves neither (design §2.5), and whoever sent the transaction is no matter.
"""

from collections.abc import Sequence

from custody.chain import NATIVE, MalformedLog, Receipt
from custody.chain.logs import TRANSFER_TOPIC, TransferLog, decode_transfer
from custody.chain.safe_logs import logs_of_execution
from custody.releases.outcome import NATIVE_LOG_INDEX, NotPaid, Paid, Unclear
from custody.releases.rows import Instruction


def judge_execution(instruction: Instruction, receipt: Receipt) -> Paid | NotPaid | Unclear | None:
    """What a mined transaction did to a payout of a Safe; None when it did not execute its SafeTx.

    Only what was logged while this SafeTx ran counts: one transaction may execute several.
    """
    assert instruction.signing_hash is not None
    if not receipt.succeeded:
        return None
    try:
        found = logs_of_execution(receipt.logs, instruction.treasury, instruction.signing_hash)
        if found is None:
            return None
        execution, logs = found
        moved = [
            decode_transfer(log) for log in logs if log.address == instruction.token and log.event == TRANSFER_TOPIC
        ]
    except MalformedLog as error:
        return Unclear("safe_log_malformed", f"the logs could not be read ({error}).")
    if not execution.succeeded:
        return NotPaid("execution_failed: the Safe spent the nonce and logged ExecutionFailure; no coins moved.")
    if instruction.token == NATIVE:
        # The Safe reverts unless the inner call succeeds, so its own ExecutionSuccess is the proof (GS013).
        return Paid(NATIVE_LOG_INDEX, NATIVE_LOG_INDEX)
    return _judge_transfers(instruction, receipt, [log for log in moved if log.sender == instruction.treasury])


def _judge_transfers(
    instruction: Instruction, receipt: Receipt, leaving: Sequence[TransferLog]
) -> Paid | NotPaid | Unclear:
    if not leaving:
        return NotPaid("no_transfer: the Safe executed it, but the token logged no transfer.")
    log = leaving[0]
    if len(leaving) == 1 and (log.recipient, log.amount) == (instruction.recipient, instruction.amount_units):
        ordinal = next(place for place, each in enumerate(receipt.logs) if each.log_index == log.log_index)
        return Paid(log.log_index, ordinal)
    shown = ", ".join(f"{each.amount} to {each.recipient}" for each in leaving)
    return Unclear(
        "transfer_differs",
        f"the token logged {shown} instead of {instruction.amount_units} to {instruction.recipient}.",
    )
