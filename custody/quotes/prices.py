"""Prices and where they come from, behind one interface; what several sources say together.

A price is dollars for one unit of a currency or token: its pair is ``EUR/USD``, ``USDC/USD``. Nothing else is asked.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, Protocol

from custody.quotes.arithmetic import ONE, QuoteRefused, plain, within_bps

DOLLAR: Final = "USD"


@dataclass(frozen=True, slots=True)
class Price:
    """What a source says of a pair, dollars a unit, above zero; ``as_of``: when it came to be, by the source."""

    pair: str
    source: str
    value: Decimal
    as_of: datetime


@dataclass(frozen=True, slots=True)
class Unusable:
    """A source that has no price to go by now: ``why`` in one sentence, and what it said, where it said something."""

    pair: str
    source: str
    why: str
    value: Decimal | None = None
    as_of: datetime | None = None


Answer = Price | Unusable


class PriceSource(Protocol):
    """Something that says what currencies and tokens are worth in dollars."""

    def answers(self, pairs: Collection[str], now: datetime) -> Sequence[Answer]:
        """One answer for each of its feeds of ``pairs``, at ``now``. A source that is away is Unusable, never an error."""
        ...


PAIRS: Final = tuple(f"{unit}/USD" for unit in ("EUR", "IRR", "TRY", "USDC", "USDT"))
"""Of every currency that sellers price in (the seed's offer_currency) and every token that settles (facts §7)."""
SETTLING: Final = frozenset({"USDC", "USDT"})


def pair_of(unit: str) -> str:
    """The pair of a currency or token symbol."""
    return f"{unit}/{DOLLAR}"


def pairs_needed(currency: str, symbol: str) -> frozenset[str]:
    """What a quote of a price in ``currency``, settled in the token ``symbol``, needs to know. A dollar is a dollar."""
    return frozenset(pair_of(unit) for unit in (currency, symbol) if unit != DOLLAR)


def ask(sources: Iterable[PriceSource], pairs: Collection[str], now: datetime) -> tuple[Answer, ...]:
    """All answers of all sources, in an order of their own: who was asked first changes nothing."""
    return in_order(answer for source in sources for answer in source.answers(pairs, now))


def in_order(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """The answers by pair, then source."""
    return tuple(sorted(answers, key=lambda each: (each.pair, each.source, str(each.value))))


def agreed_price(
    pair: str,
    answers: Sequence[Answer],
    *,
    side: Literal["highest", "lowest"],
    sources_minimum: int,
    deviation_bps: int,
) -> Decimal:
    """The price that the usable sources of ``pair`` agree on.

    Of several that agree, the one that asks more of the buyer: the ``highest`` for what is owed, the ``lowest`` for what
    is sent. Raises QuoteRefused (``sources``, ``deviation``).
    """
    if pair == pair_of(DOLLAR):
        return ONE
    mine = [each for each in in_order(answers) if each.pair == pair]
    usable = [each for each in mine if isinstance(each, Price)]
    if len(usable) < sources_minimum:
        because = "; ".join(f"{each.source}: {each.why}" for each in mine if isinstance(each, Unusable))
        raise QuoteRefused(
            "sources",
            f"{pair} has {len(usable)} usable sources of the {sources_minimum} it needs: {because or 'none is configured'}",
        )
    low = min(usable, key=lambda each: (each.value, each.source))
    high = max(usable, key=lambda each: (each.value, each.source))
    if not within_bps(low.value, high.value, deviation_bps):
        raise QuoteRefused(
            "deviation",
            f"{pair}: {low.source} says {plain(low.value)} and {high.source} says {plain(high.value)}, "
            f"more than {deviation_bps} bps apart: one of them is wrong",
        )
    return high.value if side == "highest" else low.value
