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

    ``swept`` are the logs, each with its units, that an own node confirmed when it was judged.
    """

    token: str
    payment: str
    units: int
    destinations: frozenset[str]
    swept: Mapping[SweptLog, int] = field(default_factory=dict[SweptLog, int])


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
    payments, destinations = {promise.payment}, set(promise.destinations)
    while True:
        joined: list[Promise] = []
        apart: list[Promise] = []
        for each in rest:
            (joined if each.payment in payments or each.destinations & destinations else apart).append(each)
        if not joined:
            break
        rest = apart
        group += joined
        payments |= {each.payment for each in joined}
        for each in joined:
            destinations |= each.destinations
    swept: dict[SweptLog, int] = {}
    for each in group:
        swept.update(each.swept)
    return Coverage(sum(each.units for each in group) + unknown_units, sum(swept.values()))
