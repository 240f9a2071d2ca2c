"""What a Safe's own logs say it executed, by hash (custody-rules R16). Pure decoders. Source: Safe 1.3.0 and 1.4.1.

A Safe emits one of these events for each of its nonces, and for nothing else; a receipt's status does not say which
SafeTx it was, nor whether it was one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from eth_utils.crypto import keccak

from custody.chain.logs import Log, MalformedLog

EXECUTION_SUCCESS_TOPIC: Final = "0x" + keccak(text="ExecutionSuccess(bytes32,uint256)").hex()
EXECUTION_FAILURE_TOPIC: Final = "0x" + keccak(text="ExecutionFailure(bytes32,uint256)").hex()
EXECUTION_TOPICS: Final = frozenset({EXECUTION_SUCCESS_TOPIC, EXECUTION_FAILURE_TOPIC})
_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class Execution:
    """One executed SafeTx. ``tx_hash`` is its safeTxHash, 32 bytes; ``log`` the Safe's own."""

    tx_hash: bytes
    succeeded: bool
    log: Log


def read_execution(log: Log) -> Execution:
    """The event in a Safe's log: 1.3.0 has the hash in the data, 1.4.1 in a topic. Raises MalformedLog."""
    if log.event not in EXECUTION_TOPICS:
        raise MalformedLog(f"log {log.log_index} is no execution event of a Safe")
    succeeded = log.event == EXECUTION_SUCCESS_TOPIC
    if len(log.topics) == 1 and len(log.data) == 2 * _WORD:
        return Execution(log.data[:_WORD], succeeded, log)
    if len(log.topics) == 2 and len(log.data) == _WORD:
        return Execution(bytes.fromhex(log.topics[1][2:]), succeeded, log)
    raise MalformedLog(f"log {log.log_index}: a Safe's execution event has an unknown shape")


def executions(logs: Collection[Log], safe: str) -> list[Execution]:
    """Every SafeTx that these logs say ``safe`` executed, in their order. Raises MalformedLog."""
    return [read_execution(log) for log in logs if log.address == safe and log.event in EXECUTION_TOPICS]


def logs_of_execution(logs: Sequence[Log], safe: str, tx_hash: bytes) -> tuple[Execution, Sequence[Log]] | None:
    """The execution of one SafeTx in a transaction's logs, with what was logged while it ran; None if there is none.

    Between the Safe's event before and its own lies all that its call did. Raises MalformedLog, also for an event that
    comes twice: a Safe spends a nonce once.
    """
    start, found = 0, None
    for place, log in enumerate(logs):
        if log.address != safe or log.event not in EXECUTION_TOPICS:
            continue
        execution = read_execution(log)
        if execution.tx_hash == tx_hash:
            if found is not None:
                raise MalformedLog(f"log {log.log_index}: the Safe logs one SafeTx twice")
            found = (execution, tuple(logs[start:place]))
        start = place + 1
    return found
