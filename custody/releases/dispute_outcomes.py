"""How a dispute ended, and who gets how much of what was disputed (R14, R21). Pure.

The marketplace writes ``resolution.action``, and for a part of the money ``refundAmount`` (whole tokens) or
``refundPercent`` (at most two decimals). What is not clear to the last unit is decided by people, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, cast

OutcomeKind = Literal["release", "refund", "split"]

CLOSED: Final = frozenset({"resolved", "closed"})
"""Dispute statuses that end it. Anything else, also a status that is new, counts as open: it must never release money."""

_FOR_THE_SELLER: Final = frozenset({"no_action", "warning_seller"})
_DECIDED_FOR_THE_SELLER: Final = "release"
_FOR_THE_BUYER: Final = frozenset({"refund", "split", "compensation"})
PERCENT_DECIMALS: Final = 2
_HUNDRED: Final = Decimal(100)
_WHOLE_HUNDREDTHS: Final = 10_000  # of a percent


class Undecided(ValueError):
    """The resolution does not say who gets how much. The message is what people must settle."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``refund_amount`` (whole tokens) or ``refund_percent`` (above 0, below 100) only for a split.

    ``orders_release``: the resolution itself is the order to pay the seller, whatever the purchase request waits for.
    """

    kind: OutcomeKind
    refund_amount: Decimal | None = None
    refund_percent: Decimal | None = None
    orders_release: bool = False

    def refund_of(self, disputed: Decimal, decimals: int) -> Decimal:
        """The buyer's part of ``disputed``, whole tokens; the rest is the seller's, so the two add up exactly.

        A percentage is rounded down to the token's smallest unit: the remainder is the seller's. Raises Undecided for
        a part above the whole, or with more decimals than the token has.
        """
        if self.kind == "release":
            return Decimal(0)
        if self.kind == "refund":
            return disputed
        unit = Decimal(1).scaleb(-decimals)
        if self.refund_percent is not None:
            hundredths = int(self.refund_percent.scaleb(PERCENT_DECIMALS))
            return Decimal(int(disputed.scaleb(decimals)) * hundredths // _WHOLE_HUNDREDTHS).scaleb(-decimals)
        assert self.refund_amount is not None
        if self.refund_amount > disputed:
            raise Undecided(
                f"it gives the buyer {self.refund_amount:f} of the {disputed.normalize():f} that are disputed"
            )
        if self.refund_amount % unit:
            raise Undecided(f"it gives the buyer {self.refund_amount:f}, the token has {decimals} decimals")
        return self.refund_amount


def outcome_of(resolution: object) -> Outcome:
    """What a closed dispute's ``resolution`` says: a document, or the action alone. Raises Undecided."""
    document = cast(Mapping[str, Any], resolution) if isinstance(resolution, Mapping) else {"action": resolution}
    action = document.get("action")
    if action in _FOR_THE_SELLER:
        return Outcome("release")
    if action == _DECIDED_FOR_THE_SELLER:
        return Outcome("release", orders_release=True)
    if action not in _FOR_THE_BUYER:
        raise Undecided(f"it was closed with {action or 'no resolution'}")
    amount = _number(document, "refundAmount")
    percent = _number(document, "refundPercent")
    if amount is not None and percent is not None:
        raise Undecided(f"its {action} has a refundAmount and a refundPercent")
    if percent is not None:
        if percent > _HUNDRED or percent != round(percent, PERCENT_DECIMALS):
            raise Undecided(f"its refundPercent is {percent:f}; expected at most 100 with {PERCENT_DECIMALS} decimals")
        return Outcome("refund") if percent == _HUNDRED else Outcome("split", None, percent, orders_release=True)
    if amount is not None:
        return Outcome("split", amount, orders_release=True)
    if action == "refund":
        return Outcome("refund")
    raise Undecided(f"its {action} names no refundAmount and no refundPercent")


def _number(document: Mapping[str, Any], field: str) -> Decimal | None:
    """An exact number above zero: text, an integer, or MongoDB's decimal. A double is no amount of money."""
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        to_decimal = getattr(value, "to_decimal", None)  # bson.Decimal128
        if to_decimal is None:
            raise Undecided(f"its {field} is a {type(value).__name__}; expected a decimal text")
        value = to_decimal()
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise Undecided(f"its {field} {str(value)[:40]!r} is no number") from error
    if not number.is_finite() or number <= 0:
        raise Undecided(f"its {field} is {number}; expected more than 0")
    return number


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as its document says. ``resolution`` is None while there is none, else the document or its action.

    ``is_settled``: the books have closed it, and moved the buyer's part out of what is held.
    """

    id: str
    status: str
    resolution: object = None
    is_settled: bool = False

    @property
    def is_open(self) -> bool:
        """Anything not known to be settled counts as open: a new status must never release money."""
        return self.status not in CLOSED

    def outcome(self) -> Outcome | None:
        """How it ended, None while it is open. Raises Undecided when people must decide."""
        return None if self.is_open else outcome_of(self.resolution)

    @property
    def said(self) -> tuple[str, str, str]:
        """What two stores must agree on: its name, its status, and how it ended."""
        try:
            return self.id, self.status, str(self.outcome())
        except Undecided as error:
            return self.id, self.status, str(error)

    @property
    def why_it_stops(self) -> str | None:
        """Why it stops a release to the seller, as a sentence; None when it was settled for the seller."""
        try:
            outcome = self.outcome()
        except Undecided as error:
            return f"dispute_not_for_seller: dispute {self.id}: {error}; people decide who is paid."
        if outcome is None:
            return f"dispute_open: dispute {self.id} is {self.status}; it must be resolved first."
        if outcome.kind == "refund":
            return f"dispute_not_for_seller: dispute {self.id} was closed with refund; the buyer is paid."
        if outcome.kind == "split" and not self.is_settled:
            return f"dispute_not_settled: dispute {self.id} gives the buyer a part, which the books set aside first."
        return None
