"""``policy.toml``: rules that only take away (deny, recipients, limits, hours, approvals), and rules that allow (R8).

Whatever no ``allow`` rule names is denied. A rule's scope is empty where it speaks of everything.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from custody.policy.documents import (
    NO_HASH,
    Address,
    ChainId,
    Document,
    DocumentHash,
    EnvironmentId,
    Moment,
    Name,
    Symbol,
    Version,
    WholeTokens,
)

Purpose = Literal["release", "refund", "sweep", "adjustment", "gas_funding", "drain", "fee_payout"]
"""A ``drain`` moves coins from a former treasury to the active one (R22); a ``fee_payout`` pays what the house kept (L7)."""
PURPOSES: Final[tuple[Purpose, ...]] = (
    "release",
    "refund",
    "sweep",
    "adjustment",
    "gas_funding",
    "drain",
    "fee_payout",
)
Source = Literal["address_book", "buyer_signature"]
"""How a recipient is known: a k-signed entry, or a proof by the buyer's own signature (R21)."""
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_SECONDS: Final = 86_400  # rolling, not a calendar day: at midnight nobody gets two days' limits
DAY_MINUTES: Final = 1_440
COOL_DOWN_MAXIMUM_SECONDS: Final = 90 * DAY_SECONDS  # a longer wait is a ban, which is a deny rule
RULES_MAXIMUM: Final = 200  # more than a person reads before signing
APPROVALS_MAXIMUM: Final = 32  # as many as a genesis may have approvers


class Scope(Document):
    """What a rule speaks of. Of each field: empty means any."""

    purposes: tuple[Purpose, ...] = ()
    chains: tuple[ChainId, ...] = ()
    currencies: tuple[Symbol, ...] = ()

    def about(self, purpose: str, chain_id: int, currency: str) -> bool:
        """Whether the rule speaks of requests of that purpose, chain and currency."""
        return (
            (not self.purposes or purpose in self.purposes)
            and (not self.chains or chain_id in self.chains)
            and (not self.currencies or currency in self.currencies)
        )

    def covers(self, other: "Scope") -> bool:
        """Whether everything that ``other`` speaks of is spoken of by this one too."""
        pairs = (
            (self.purposes, other.purposes),
            (self.chains, other.chains),
            (self.currencies, other.currencies),
        )
        return all(not wide or (narrow and set(narrow) <= set(wide)) for wide, narrow in pairs)

    def in_words(self) -> str:
        """``releases and refunds of USDT on chain 56``, for a person."""
        purposes = " or ".join(self.purposes) or "anything"
        money = f" of {' or '.join(self.currencies)}" if self.currencies else ""
        chains = f" on chain {' or '.join(map(str, self.chains))}" if self.chains else ""
        return f"{purposes}{money}{chains}"


class _Rule(Scope):
    name: Name


class Deny(_Rule):
    """Denies what it speaks of; with ``recipients``, only money that goes to them."""

    kind: Literal["deny"]
    reason: Annotated[str, Field(pattern=r"^[ -~]{1,200}$")]
    recipients: tuple[Address, ...] = ()


class Recipients(_Rule):
    """Denies recipients that are not known by one of ``sources``, or whose entry is younger than the cool-down."""

    kind: Literal["recipients"]
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    cool_down_seconds: Annotated[int, Field(ge=0, le=COOL_DOWN_MAXIMUM_SECONDS, strict=True)]
    """How old an address book entry must be."""


class _Limit(_Rule):
    currency: Symbol
    maximum: WholeTokens

    @model_validator(mode="after")
    def _one_currency(self) -> Self:
        if self.currencies:
            raise ValueError("currencies: expected none, a limit counts in its one 'currency'")
        return self

    def about(self, purpose: str, chain_id: int, currency: str) -> bool:
        """As a scope's, in the limit's currency alone."""
        return currency == self.currency and Scope.about(self, purpose, chain_id, currency)


class LimitPerTransaction(_Limit):
    """Denies a request above ``maximum`` whole tokens."""

    kind: Literal["limit_per_transaction"]


class LimitPerDay(_Limit):
    """Denies a request that, with all handed out in the last 24 hours, comes above ``maximum`` whole tokens.

    Counted over everything in its scope, or of each recipient on its own; from hand-out on, for a signature may exist (R1).
    """

    kind: Literal["limit_per_day"]
    per_recipient: bool = False


class Window(Document):
    """Hours of some weekdays, UTC; ``until`` is the first minute that is no longer in it, at latest 24:00."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    from_: Annotated[str, Field(alias="from", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    until: Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")]

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if _minute(self.from_) >= _minute(self.until):
            raise ValueError("until: expected a later time than 'from'; a window over midnight is two windows")
        return self

    def minutes(self) -> frozenset[int]:
        """The minutes of a week that are in it, 0 is Monday 00:00 UTC."""
        span = range(_minute(self.from_), _minute(self.until))
        return frozenset(DAYS.index(day) * DAY_MINUTES + minute for day in self.days for minute in span)


class Hours(_Rule):
    """Denies outside its windows."""

    kind: Literal["hours"]
    windows: Annotated[tuple[Window, ...], Field(min_length=1, max_length=21)]

    def minutes(self) -> frozenset[int]:
        """The minutes of a week in which it denies nothing."""
        return frozenset().union(*(window.minutes() for window in self.windows))


class Tier(Document):
    """From this amount on (whole tokens, inclusive), that many persons."""

    from_: Annotated[WholeTokens, Field(alias="from")]
    k: Annotated[int, Field(ge=0, le=APPROVALS_MAXIMUM, strict=True)]


class Approvals(_Rule):
    """Asks for k persons by amount. The largest k of all such rules binds; without any, the genesis' k."""

    kind: Literal["approvals"]
    tiers: Annotated[tuple[Tier, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.tiers[0].from_ != 0:
            raise ValueError("tiers: expected the first one from '0'")
        for lower, upper in zip(self.tiers, self.tiers[1:], strict=False):
            if upper.from_ <= lower.from_ or upper.k < lower.k:
                raise ValueError("tiers: expected rising amounts with a k that never falls")
        return self

    def required(self, amount: Decimal) -> int:
        """Persons needed for that many whole tokens."""
        return max(tier.k for tier in self.tiers if tier.from_ <= amount)


class Allow(_Rule):
    """Allows what it speaks of, unless another rule denies it."""

    kind: Literal["allow"]


Rule = Annotated[
    Deny | Recipients | LimitPerTransaction | LimitPerDay | Hours | Approvals | Allow, Field(discriminator="kind")
]


class Policy(Document):
    """The whole file. ``genesis`` is the hash of the fleet's first genesis: another fleet's policy is refused."""

    environment: EnvironmentId
    genesis: DocumentHash
    version: Version
    previous: DocumentHash
    issued_at: Moment
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=RULES_MAXIMUM)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.version == 1) != (self.previous == NO_HASH):
            raise ValueError("previous: expected 64 zeros for version 1, else the hash of the version before")
        names = [rule.name for rule in self.rules]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ValueError(f"rules: two are named {twice!r}; expected a name of its own for each")
        return self


def week_minute(at: datetime) -> int:
    """The minute of the week of a UTC moment, 0 is Monday 00:00."""
    return at.weekday() * DAY_MINUTES + at.hour * 60 + at.minute


def _minute(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
