"""Break-glass: for less than an hour, one approver fewer, for a small part of one treasury's coins (R15). Pure.

It touches how many persons must approve a release or a refund, and nothing else: no ledger, no dispute, no readability,
no limit, no recipient, no threshold of a Safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

LIFETIME_MAXIMUM: Final = timedelta(hours=1)  # from its proposal, R15
DELAY: Final = timedelta(minutes=10)
"""From the second person's signature until it opens: the time in which any one guard can veto it."""
APART: Final = timedelta(hours=24)
"""From the end of one to the opening of the next: so no 24 hours, wherever they begin, see more than one."""
SHARE: Final = 10
"""At most one part in so many of the treasury's balance of the token goes out by it: 10 %."""
COOL_DOWN: Final = timedelta(hours=24)
"""How old a recipient's address book entry must be, if no rule of the policy asks for more."""
K_FLOOR: Final = 2
K_FALLS_BY: Final = 1


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """One that two persons signed, as it stands. Amounts in the token's smallest unit, times in UTC.

    ``maximum_units`` was signed; ``treasury_units`` is the treasury's balance now. ``signed_at``: when the second person's
    signature came in. ``is_verified``: two persons' signatures hold now, over this very scope. ``alarm_heard_at``: when the
    alarms' receiver, not a person, acknowledged it.
    """

    id: str
    chain_id: int
    token: str
    maximum_units: int
    treasury_units: int
    proposed_at: datetime
    expires_at: datetime
    signed_at: datetime
    is_verified: bool
    alarm_heard_at: datetime | None = None
    vetoed_at: datetime | None = None

    @property
    def opens_at(self) -> datetime | None:
        """When it opens, or opened; None as long as nobody outside has heard of it, and for one that never could."""
        if self.alarm_heard_at is None or self.expires_at - self.proposed_at > LIFETIME_MAXIMUM:
            return None
        opens = max(self.signed_at + DELAY, self.alarm_heard_at)
        if opens >= self.expires_at or (self.vetoed_at is not None and self.vetoed_at <= opens):
            return None
        return opens

    def is_open(self, at: datetime) -> bool:
        """Whether it counts at that moment. A veto ends it at once, also for what was handed out before."""
        opens = self.opens_at
        return opens is not None and self.is_verified and self.vetoed_at is None and opens <= at < self.expires_at


def once_a_day(glasses: Sequence[BreakGlass]) -> list[BreakGlass]:
    """Those that may count: after one has opened, none that opens within APART of its end."""
    opening = [(opens, each) for each in glasses if (opens := each.opens_at) is not None]
    found: list[BreakGlass] = []
    for opens, each in sorted(opening, key=lambda pair: (pair[0], pair[1].id)):
        if not found or opens >= found[-1].expires_at + APART:
            found.append(each)
    return found


def open_glass(glasses: Sequence[BreakGlass], *, chain_id: int, token: str, at: datetime) -> BreakGlass | None:
    """The one that is open for a token at that moment, or None."""
    for each in once_a_day(glasses):
        if (each.chain_id, each.token) == (chain_id, token) and each.is_open(at):
            return each
    return None
