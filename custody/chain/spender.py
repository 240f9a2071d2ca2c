"""Which transaction spent a nonce: for those that were sent by somebody who holds our bytes, and never told us (R1).

A node is asked by halves how many transactions the account had sent at a block, then for the block itself. Nodes keep
the state of recent blocks only: older ones answer nothing, and the caller goes on without knowing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from custody.chain import wire
from custody.chain.errors import ChainUnavailable

if TYPE_CHECKING:
    from custody.chain.nodes import ChainNodes
    from custody.chain.rpc import ChainClient

STEPS_LIMIT: Final = 64  # a search by halves of every height that fits a chain's counter


@dataclass(frozen=True, slots=True)
class Spender:
    """The transaction on a nonce, as its block lists it. ``parity``, ``r`` and ``s`` are claims of the node."""

    transaction_hash: str
    parity: int
    r: int
    s: int


def spender_of(nodes: "ChainNodes", address: str, nonce: int) -> Spender | None:
    """The canonical transaction on ``nonce``, as a quorum of nodes says; None where they do not know it, or disagree."""
    try:
        return nodes.agreed(lambda client: spender_at(client, address, nonce))
    except ChainUnavailable:
        return None


def spender_at(client: "ChainClient", address: str, nonce: int) -> Spender | None:
    """The canonical transaction on ``nonce``, as one node says; None where it does not know it. Raises ChainUnavailable."""
    high = client.head().number
    if client.nonce(address, high) <= nonce:
        return None
    low, reach = high, 1
    # First near the head, where every node has the state, then twice as far each time.
    while low > 0 and client.nonce(address, low) > nonce:
        high, low, reach = low, max(0, low - reach), 2 * reach
    for _ in range(STEPS_LIMIT):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        if client.nonce(address, middle) > nonce:
            high = middle
        else:
            low = middle
    return _in_block(client, address, nonce, high)


def _in_block(client: "ChainClient", address: str, nonce: int, number: int) -> Spender | None:
    [answer] = client.ask([("eth_getBlockByNumber", [hex(number), True])])
    if answer.error is not None or answer.result is None:
        return None
    try:
        return _spender(
            wire.items(wire.member(answer.result, "block").get("transactions"), "transactions"), address, nonce
        )
    except wire.MalformedAnswer:
        return None


def _spender(transactions: Sequence[object], address: str, nonce: int) -> Spender | None:
    for value in transactions:
        raw = wire.member(value, "transaction")
        if str(raw.get("from")).lower() != address.lower() or wire.quantity(raw.get("nonce"), "nonce") != nonce:
            continue
        # Other types have a v in place of a parity; none of ours does, and what is not ours need only be named.
        parity = raw.get("yParity", raw.get("v"))
        return Spender(
            wire.hash32(raw.get("hash"), "hash"),
            wire.quantity(parity, "yParity"),
            wire.quantity(raw.get("r"), "r"),
            wire.quantity(raw.get("s"), "s"),
        )
    return None
