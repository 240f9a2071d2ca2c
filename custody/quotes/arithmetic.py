"""How many tokens settle what is owed: exact fractions, rounded up once, never below the owed value (facts §7).

A token below its peg counts at its price, so that the buyer sends proportionally more and the seller gets the full value.
Above its peg it counts as one dollar: the facts only raise the amount, and a premium of a minute would lower it.
"""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Final

from custody.chain.assets import to_amount

ROUNDING_MAXIMUM_PERCENT: Final = 3
"""A friendlier amount is only taken within this of the exact one (facts §7)."""

FRIENDLY_DECIMALS: Final = 2
"""A friendly amount has whole cents: what people read aloud and type."""

BASIS_POINTS: Final = 10_000
SETTLE_MAXIMUM: Final = 10**18
"""Whole tokens; above it a wrong price is likelier than a purchase, and numeric(38,18) ends at 10**20."""

ONE: Final = Decimal(1)


class QuoteRefused(Exception):
    """No quote. ``bound`` names the limit that refuses it; the message is one sentence for people."""

    def __init__(self, bound: str, sentence: str) -> None:
        super().__init__(sentence)
        self.bound = bound
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Settlement:
    """``units`` of the token's smallest unit, the same as ``amount`` in whole tokens, and how both came about.

    ``depeg_adjustment_bps``: how much was added because the token is below its peg, rounded up; 0 at or above it.
    ``exact``: the amount before rounding, whole tokens.
    """

    amount: Decimal
    units: int
    exact: Fraction
    depeg_adjustment_bps: int


def require_near_peg(pair: str, price: Decimal, band_bps: int) -> None:
    """Raises QuoteRefused (``depeg``) for a stablecoin further than ``band_bps`` from one dollar, either way."""
    off = abs(Fraction(price) - 1) * BASIS_POINTS
    if off > band_bps:
        raise QuoteRefused(
            "depeg",
            f"{pair} is {plain(price)}, {ceil(off)} bps from its peg, more than {band_bps} bps: nothing is quoted in it",
        )


def settle(owed: Decimal, *, fx_rate: Decimal, token_price: Decimal, is_same_coin: bool, decimals: int) -> Settlement:
    """The least amount, rounded up, that is worth ``owed``.

    ``owed`` > 0 in the price's currency; ``fx_rate`` dollars for one of it; ``token_price`` dollars for one token;
    ``is_same_coin``: the price is in the token itself, so no rate touches it; ``decimals`` of the token, 0 to 18.
    Raises QuoteRefused (``amount``, ``rounding``).
    """
    if min(owed, fx_rate, token_price) <= 0:
        raise QuoteRefused("amount", "owed, rate and price: each must be above zero")
    counted = Fraction(min(token_price, ONE))
    exact = Fraction(owed) if is_same_coin else Fraction(Fraction(owed) * Fraction(fx_rate), counted)
    if exact > SETTLE_MAXIMUM:
        raise QuoteRefused("amount", f"more than {SETTLE_MAXIMUM} tokens: no purchase is that large")
    exact_units = exact * 10**decimals
    units = _friendly(exact, decimals)
    if not _is_near(units, exact_units):
        units = ceil(exact_units)
    if not _is_near(units, exact_units):
        raise QuoteRefused(
            "rounding",
            f"rounding up to the token's {decimals} decimals would add more than {ROUNDING_MAXIMUM_PERCENT} %: too small a price",
        )
    added = 0 if is_same_coin else ceil(Fraction(BASIS_POINTS * (1 - counted), counted))
    return Settlement(to_amount(units, decimals), units, exact, added)


def _friendly(exact: Fraction, decimals: int) -> int:
    shown = min(decimals, FRIENDLY_DECIMALS)
    return ceil(exact * 10**shown) * 10 ** (decimals - shown)


def _is_near(units: int, exact_units: Fraction) -> bool:
    return (units - exact_units) * 100 <= exact_units * ROUNDING_MAXIMUM_PERCENT


def within_bps(one: Decimal, other: Decimal, bps: int) -> bool:
    """Whether two prices above zero differ by at most ``bps`` of the smaller one."""
    low, high = sorted((Fraction(one), Fraction(other)))
    return (high - low) * BASIS_POINTS <= low * bps


def plain(value: Decimal) -> str:
    """A number as people write it, without an exponent or zeros at its end."""
    return f"{value.normalize():f}"
