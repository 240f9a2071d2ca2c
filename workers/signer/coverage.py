"""Never more out than came in (R4): what was promised against what lies in the treasury for it. Pure sums of ints.

A payment is the database's own word; which coins were swept from which address is the chain's. So promises are counted
by both: every promise that shares a payment or a deposit address with this one stands against the same coins, however a
database calls them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SweptLog = tuple[str, int]
"""(transaction hash, log index) of a Transfer into the treasury."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One payout that this machine signs or has signed. Units: the token's smallest.

    ``swept`` are the logs, each with its units, that an own node confirmed when it was judged. ``shares``: the payments that
    it pays for, with the units of each (R23); ``units`` are their sum.
    """

    token: str
    shares: Mapping[str, int]
    destinations: frozenset[str]
    swept: Mapping[SweptLog, int] = field(default_factory=dict[SweptLog, int])

    @property
    def units(self) -> int:
        """All that it takes from the treasury."""
        return sum(self.shares.values())


@dataclass(frozen=True, slots=True)
class Coverage:
    """Smallest units: ``promised`` includes the payout that is judged."""

    promised: int
    swept: int

    @property
    def is_enough(self) -> bool:
        """Whether what was swept covers every promise."""
        return self.promised <= self.swept


def coverage(promise: Promise, earlier: Iterable[Promise], *, unknown_units: int = 0) -> Coverage:
    """Promises that stand against the same coins as ``promise``, and those coins.

    ``unknown_units``: payouts of the same payment that the API names and this machine never signed.
    """
    group, rest = [promise], [each for each in earlier if each.token == promise.token]
    payments, destinations = set(promise.shares), set(promise.destinations)
    while True:
        joined: list[Promise] = []
        apart: list[Promise] = []
        for each in rest:
            (joined if payments & each.shares.keys() or each.destinations & destinations else apart).append(each)
        if not joined:
            break
        rest = apart
        group += joined
        for each in joined:
            payments |= each.shares.keys()
            destinations |= each.destinations
    swept: dict[SweptLog, int] = {}
    for each in group:
        swept.update(each.swept)
    return Coverage(sum(each.units for each in group) + unknown_units, sum(swept.values()))
