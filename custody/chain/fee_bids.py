"""What a replacement of a transaction that is not mined must bid (R1). Pure; wei per gas (EIP-1559).

A node takes a replacement only if both fees are above the old ones by its own margin (a tenth, for most). Ours are an
eighth above every one that may be in a pool.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

OUTBID_NUMERATOR: Final = 9  # both fees x 1.125 (R1)
OUTBID_DENOMINATOR: Final = 8
BASE_FEE_MULTIPLE: Final = 2  # EIP-1559: covers six full blocks in a row of rising base fee


@dataclass(frozen=True, slots=True)
class FeeBid:
    """``max_fee`` >= ``priority``."""

    max_fee: int
    priority: int


def outbid(known: Iterable[FeeBid], *, base_fee: int, priority_fee: int) -> FeeBid:
    """The least bid that replaces every one of ``known``, and that the chain takes now."""
    found = tuple(known)
    priority = max([priority_fee, *(_raised(bid.priority) for bid in found)])
    return FeeBid(max([BASE_FEE_MULTIPLE * base_fee + priority, *(_raised(bid.max_fee) for bid in found)]), priority)


def replaces(new: FeeBid, old: FeeBid) -> bool:
    """Whether both fees are at least 1.125 times the old ones."""
    return new.max_fee >= _raised(old.max_fee) and new.priority >= _raised(old.priority)


def _raised(fee: int) -> int:
    return max(
        fee + 1, -(-fee * OUTBID_NUMERATOR // OUTBID_DENOMINATOR)
    )  # nodes want more than before, also than nothing
