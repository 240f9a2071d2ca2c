"""How long a chain takes for a block, and so how long a transfer still waits for its depth (L13). Exact seconds.

Measured over the watched window (L14) wherever enough of it is known; until then what each chain's own documents say.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from custody.chain.depth import UnknownChain

BLOCKS_LEAST: Final = 64
"""Headers tell whole seconds: over 64 of the fastest chain's blocks, 12.8 s, that is an error below 8 %."""

BLOCKS_MOST: Final = 256  # the least that is always watched (L14); older blocks say little of the pace of today

BLOCK_SECONDS: Final = MappingProxyType(
    {
        # SECONDS_PER_SLOT, https://github.com/ethereum/consensus-specs/blob/dev/specs/phase0/beacon-chain.md
        1: Fraction(12),
        # BEP-619 in the Fermi upgrade, mainnet 2026-01-14: https://docs.bnbchain.org/announce/fermi-bsc
        56: Fraction("0.45"),
        # The pace of its producers. Consensus allows 1 s since PIP-75, so this errs on the long side:
        # https://forum.polygon.technology/t/pip-75-change-consensus-time-to-1-second/21376
        137: Fraction(2),
        # https://docs.arbitrum.io/launch-arbitrum-chain/features/advanced/sequencer-timing-adjustments
        42161: Fraction("0.25"),
        # Denim, mainnet 2026-11-05, before that 2 s: https://docs.base.org/base-chain/specs/upgrades/denim/overview
        8453: Fraction("0.2"),
        # The embedded Anvil's own; one that mines by itself has no pace at all.
        1337: Fraction(1),
        31337: Fraction(1),
    }
)
"""Seconds a block while too few are known; keys are those of ``depth.FLOORS``."""

_MICROSECOND: Final = timedelta(microseconds=1)
_IN_SECONDS_BELOW: Final = 120  # a minute more or less matters below it
_IN_MINUTES_BELOW: Final = 120
_IN_HOURS_BELOW: Final = 48


@dataclass(frozen=True, slots=True)
class MinedAt:
    """A block of the scanned window and when its header says it was mined."""

    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class BlockTime:
    """Seconds a block, and whether the watched window says so (False: the chain's documents do)."""

    seconds: Fraction
    is_measured: bool


def block_time(chain_id: int, oldest: MinedAt | None, newest: MinedAt | None) -> BlockTime:
    """The pace between two scanned blocks, or the documented one if they are too near or their clocks stand still.

    Raises UnknownChain for a chain whose pace nobody wrote down.
    """
    if oldest is not None and newest is not None:
        blocks = newest.number - oldest.number
        elapsed = (newest.at - oldest.at) // _MICROSECOND
        if blocks >= BLOCKS_LEAST and elapsed > 0:
            return BlockTime(Fraction(elapsed, blocks * 1_000_000), is_measured=True)
    try:
        return BlockTime(BLOCK_SECONDS[chain_id], is_measured=False)
    except KeyError:
        raise UnknownChain(f"chain {chain_id} has no known time a block") from None


def until_deep(confirmations: int, threshold: int, pace: BlockTime) -> Fraction:
    """Seconds until ``confirmations`` reach ``threshold``; 0 when they have."""
    return max(0, threshold - confirmations) * pace.seconds


def about(seconds: Fraction) -> str:
    """A duration as a person says it: ``about 40 s``, ``about 12 min``, ``about 3 h``, ``about 2 days``."""
    whole = max(1, math.ceil(seconds))
    if whole < _IN_SECONDS_BELOW:
        return f"about {whole} s"
    minutes = _nearest(whole, 60)
    if minutes < _IN_MINUTES_BELOW:
        return f"about {minutes} min"
    hours = _nearest(whole, 3_600)
    if hours < _IN_HOURS_BELOW:
        return f"about {hours} h"
    return f"about {_nearest(whole, 86_400)} days"


def _nearest(whole: int, unit: int) -> int:
    return (2 * whole + unit) // (2 * unit)


def seconds_text(seconds: Fraction) -> str:
    """Exact to the microsecond, without zeros at the end: ``0.45``, ``12``."""
    whole, millionths = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{whole}.{millionths:06}".rstrip("0").rstrip(".")
