"""How deep a block must be before the fleet acts on what it carries (design §5, L13). All in blocks."""

from types import MappingProxyType
from typing import Final

# Floors no setting can undercut, design §5: each covers the deepest reorganisation its chain has to be
# expected to make. 1337 and 31337 are development chains (R17).
FLOORS: Final = MappingProxyType(
    {1: 50, 56: 200, 137: 300, 42161: 2400, 8453: 300, 1337: 1, 31337: 1},
)


class UnknownChain(ValueError):
    """A chain without a floor; no depth on it is known to be safe."""


def confirmations(head: int, block: int) -> int:
    """Return head - block + 1: a transaction in the newest block has 1 (L13).

    0 when `block` is above `head`, as it is when a node fell back behind the block.
    """
    return max(0, head - block + 1)


def floor(chain_id: int) -> int:
    """Return the least number of confirmations on a chain. Raises UnknownChain."""
    try:
        return FLOORS[chain_id]
    except KeyError:
        known = ", ".join(map(str, sorted(FLOORS)))
        raise UnknownChain(
            f"chain {chain_id} has no confirmation floor and is refused; chains with one: {known}"
        ) from None


def effective_threshold(chain_id: int, newest_history_value: int | None) -> int:
    """Return the confirmations that bind: max(newest history row, floor).

    `newest_history_value` is the newest `confirmation_threshold:<chainId>` row of config_setting_history,
    None when there is none. Raises UnknownChain, and ValueError for a value below 1.
    """
    least = floor(chain_id)
    if newest_history_value is None:
        return least
    if isinstance(newest_history_value, bool) or newest_history_value < 1:
        raise ValueError(
            f"confirmation_threshold:{chain_id}: expected a whole number of blocks above 0, "
            f"got {newest_history_value!r}"
        )
    return max(newest_history_value, least)
