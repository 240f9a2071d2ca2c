"""From prices to a quote, or to the one sentence why there is none. Pure: prices, bounds, anchors and the time are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from custody.quotes.arithmetic import QuoteRefused, Settlement, plain, require_near_peg, settle, within_bps
from custody.quotes.prices import Answer, Price, agreed_price, in_order, pair_of, pairs_needed

if TYPE_CHECKING:
    from custody.settings.environment import FleetSettings


class PriceJumped(QuoteRefused):
    """A price is too far from the last accepted one: people look at it first."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a quote keeps to. Times in seconds, distances in basis points; defaults and reasons: docs/quotes.md."""

    lifetime_seconds: int
    feed_margin_seconds: int
    deviation_bps: int
    jump_bps: int
    depeg_bps: int
    sources_minimum: int

    @classmethod
    def of(cls, settings: "FleetSettings") -> "Bounds":
        """The bounds that the settings say."""
        return cls(
            lifetime_seconds=settings.quote_lifetime_seconds,
            feed_margin_seconds=settings.quote_feed_margin_seconds,
            deviation_bps=settings.quote_deviation_basis_points,
            jump_bps=settings.quote_jump_basis_points,
            depeg_bps=settings.quote_depeg_basis_points,
            sources_minimum=settings.quote_sources_minimum,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be quoted: ``owed`` > 0 of ``currency``, settled in a token of a chain with its pinned decimals."""

    owed: Decimal
    currency: str
    chain_id: int
    token: str
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote as it is stored. Rates in dollars; ``settlement.amount`` whole tokens; good until ``expires_at``."""

    wanted: Wanted
    fx_rate: Decimal
    token_price_usd: Decimal
    settlement: Settlement
    quoted_at: datetime
    expires_at: datetime
    prices: tuple[Price, ...]
    """Every price that was agreed on, with its source and age."""


def decide(
    wanted: Wanted,
    answers: Sequence[Answer],
    *,
    anchors: Mapping[str, Sequence[Decimal]],
    bounds: Bounds,
    now: datetime,
) -> Quote:
    """The quote of ``wanted`` by these answers.

    ``anchors``: of each pair, the prices that were accepted last; one near any of them is no jump. Without any the
    first price is taken. Raises QuoteRefused naming the bound, PriceJumped when people should look.
    """
    needed = pairs_needed(wanted.currency, wanted.symbol)
    token_pair, fx_pair = pair_of(wanted.symbol), pair_of(wanted.currency)

    def price(pair: str, *, is_owed: bool) -> Decimal:
        return agreed_price(
            pair,
            answers,
            side="highest" if is_owed else "lowest",
            sources_minimum=bounds.sources_minimum,
            deviation_bps=bounds.deviation_bps,
        )

    token_price = price(token_pair, is_owed=False)
    is_same_coin = wanted.currency == wanted.symbol
    fx_rate = token_price if is_same_coin else price(fx_pair, is_owed=True)
    require_near_peg(token_pair, token_price, bounds.depeg_bps)
    found = {token_pair: token_price, fx_pair: fx_rate}
    for pair in sorted(needed):
        known = anchors.get(pair, ())
        if known and not any(within_bps(found[pair], each, bounds.jump_bps) for each in known):
            raise PriceJumped(
                "jump",
                f"{pair} is {plain(found[pair])}, more than {bounds.jump_bps} bps from {plain(known[0])}, which was accepted "
                "last: approvers look at it, and sign prices.toml with an anchor of the pair",
            )
    settlement = settle(
        wanted.owed,
        fx_rate=fx_rate,
        token_price=token_price,
        is_same_coin=is_same_coin,
        decimals=wanted.decimals,
    )
    return Quote(
        wanted=wanted,
        fx_rate=fx_rate,
        token_price_usd=token_price,
        settlement=settlement,
        quoted_at=now,
        expires_at=now + timedelta(seconds=bounds.lifetime_seconds),
        prices=tuple(each for each in in_order(answers) if isinstance(each, Price) and each.pair in needed),
    )
