"""What a Safe executed between two blocks, and its nonce at one: read from the chain's nodes (R1, R17).

A Safe logs one event for each nonce it spends, so as many executions as nonces are all of them.
"""

from collections.abc import Sequence
from typing import Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from custody.chain import CallRequest, ChainClient, ChainUnavailable, MalformedLog, wire
from custody.chain.logs import read_log
from custody.chain.nodes import ChainNodes
from custody.chain.safe_logs import EXECUTION_TOPICS, Execution, read_execution
from custody.safe.contract import NONCE

BLOCKS_AT_ONCE: Final = 500  # of one question for logs: what the strictest large providers allow
QUESTIONS_MAXIMUM: Final = 400  # 200,000 blocks: a month of Ethereum, some days of the quickest chains


class HistoryTooLong(Exception):
    """More blocks have passed than are read for one instruction. The message says how many."""


def nonce_at(nodes: ChainNodes, safe: str, block: int) -> int:
    """The Safe's nonce after a block, as a quorum of nodes says. Raises ChainUnavailable, ExecutionReverted."""
    return nodes.agreed(lambda client: nonce_at_node(client, safe, block))


def nonce_at_node(client: ChainClient, safe: str, block: int) -> int:
    """The same as one node says. Raises ChainUnavailable, ExecutionReverted."""
    return _read_nonce(client.call(CallRequest(to=safe, data=NONCE), block))


def executed_since(nodes: ChainNodes, safe: str, *, first: int, last: int) -> list[Execution]:
    """Every execution that any node shows in the blocks ``first`` to ``last``, each once.

    Raises HistoryTooLong, ChainUnavailable below the quorum.
    """
    _require_short(first, last)
    found: dict[tuple[str, int], Execution] = {}
    for answer in nodes.each(lambda client: executions_at(client, safe, first, last)):
        for each in answer:
            found.setdefault((each.log.block_hash, each.log.log_index), each)
    return list(found.values())


def executions_at(client: ChainClient, safe: str, first: int, last: int) -> Sequence[Execution]:
    """What one node shows of the same. Raises HistoryTooLong, ChainUnavailable."""
    _require_short(first, last)
    found: list[Execution] = []
    for start in range(first, last + 1, BLOCKS_AT_ONCE):
        query = {
            "address": safe,
            "topics": [sorted(EXECUTION_TOPICS)],
            "fromBlock": hex(start),
            "toBlock": hex(min(start + BLOCKS_AT_ONCE - 1, last)),
        }
        [answer] = client.ask([("eth_getLogs", [query])])
        if answer.error is not None:
            raise _unavailable(client, answer.error.words)
        try:
            logs = [
                read_log(wire.member(raw, "log"), client.chain.chain_id) for raw in wire.items(answer.result, "logs")
            ]
            found += [read_execution(log) for log in logs if log.address == safe]
        except (wire.MalformedAnswer, MalformedLog) as error:
            reason = str(error)
        else:
            continue
        raise _unavailable(client, reason)
    return found


def _require_short(first: int, last: int) -> None:
    if last - first >= BLOCKS_AT_ONCE * QUESTIONS_MAXIMUM:
        raise HistoryTooLong(f"blocks {first} to {last}; expected at most {BLOCKS_AT_ONCE * QUESTIONS_MAXIMUM}")


def _read_nonce(answer: bytes) -> int:
    try:
        return int(decode(["uint256"], answer)[0])
    except (DecodingError, OverflowError):
        return 0  # before it was made


def _unavailable(client: ChainClient, reason: str) -> ChainUnavailable:
    return ChainUnavailable(
        client.chain.chain_id, client.chain.masked_url, client.chain.redact(f"a Safe's logs: {reason}")
    )
