"""What a new policy allows or forbids that the old one did not, in words; and whether it loosens (R8).

Compared by effect, not by text: for each purpose and each token of the genesis, what would bind. Whatever is not surely
tighter counts as looser, since only tightening binds at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from custody.policy.engine import required_approvals
from custody.policy.genesis import Genesis
from custody.policy.rules import (
    DAY_MINUTES,
    PURPOSES,
    Allow,
    Approvals,
    Deny,
    Hours,
    LimitPerDay,
    LimitPerTransaction,
    Policy,
    Recipients,
    Rule,
    Scope,
    Source,
)

EVERY_MINUTE: Final = frozenset(range(7 * DAY_MINUTES))
EVERY_SOURCE: Final[frozenset[Source]] = frozenset(("address_book", "buyer_signature"))


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that changes: where (``releases of USDT on chain 56``), what, and whether it loosens."""

    where: tuple[str, ...]
    sentence: str
    loosens: bool


@dataclass(frozen=True, slots=True)
class _Cell:
    purpose: str
    chain_id: int
    currency: str

    def __str__(self) -> str:
        return f"{self.purpose} of {self.currency} on chain {self.chain_id}"

    def rules(self, policy: Policy) -> list[Rule]:
        return [
            rule
            for rule in policy.rules
            if rule.about(self.purpose, self.chain_id, self.currency)
            and (self.purpose != "drain" or rule.purposes or isinstance(rule, Deny))
        ]


def policy_differences(old: Policy, new: Policy, genesis: Genesis) -> tuple[Difference, ...]:
    """Every change of effect, loosening ones first; the same change in several places is one difference."""
    found: dict[tuple[str, bool], list[str]] = {}
    for purpose in PURPOSES:
        for chain in genesis.chains:
            for currency in dict.fromkeys(token.currency for token in chain.tokens):
                cell = _Cell(purpose, chain.id, currency)
                for sentence, loosens in _cell_differences(cell, old, new, genesis):
                    found.setdefault((sentence, loosens), []).append(str(cell))
    every = [Difference(tuple(where), sentence, loosens) for (sentence, loosens), where in found.items()]
    return tuple(sorted(every, key=lambda each: not each.loosens))


def loosens(differences: Iterable[Difference]) -> bool:
    """Whether the new version waits a day before it binds alone."""
    return any(each.loosens for each in differences)


def _cell_differences(cell: _Cell, old: Policy, new: Policy, genesis: Genesis) -> Iterator[tuple[str, bool]]:
    before, after = cell.rules(old), cell.rules(new)
    was, becomes = _is_open(cell, before), _is_open(cell, after)
    if not was and not becomes:
        return
    if was != becomes:
        yield ("becomes allowed", True) if becomes else ("becomes forbidden", False)
        return
    yield from _recipients(before, after)
    yield from _per_transaction(before, after)
    yield from _per_day(before, after)
    yield from _hours(before, after)
    yield from _approvals(cell, old, new, genesis)


def _is_open(cell: _Cell, rules: list[Rule]) -> bool:
    is_closed = any(isinstance(rule, Deny) and not rule.recipients for rule in rules)
    return not is_closed and (cell.purpose == "drain" or any(isinstance(rule, Allow) for rule in rules))


def _recipients(before: list[Rule], after: list[Rule]) -> Iterator[tuple[str, bool]]:
    was, becomes = _denied(before), _denied(after)
    if was - becomes:
        yield f"no longer denied to {', '.join(sorted(was - becomes))}", True
    if becomes - was:
        yield f"denied to {', '.join(sorted(becomes - was))}", False
    old_sources, old_wait = _known_by(before)
    new_sources, new_wait = _known_by(after)
    if new_sources - old_sources:
        yield f"a recipient may also be known by {', '.join(sorted(new_sources - old_sources))}", True
    if old_sources - new_sources:
        yield f"a recipient is no longer known by {', '.join(sorted(old_sources - new_sources))}", False
    if old_wait != new_wait:
        yield f"cool-down of a new recipient: {old_wait} s becomes {new_wait} s", new_wait < old_wait
    # Two rules with different sources say more together than their sum; what is not surely tighter loosens.
    dropped = [rule for rule in before if isinstance(rule, Recipients) and not _kept(rule, after)]
    if dropped and (new_sources, new_wait) == (old_sources, old_wait):
        yield f"recipient rules no longer ask what {dropped[0].name!r} asked", True


def _kept(rule: Recipients, after: list[Rule]) -> bool:
    return any(
        isinstance(each, Recipients)
        and set(each.sources) <= set(rule.sources)
        and each.cool_down_seconds >= rule.cool_down_seconds
        for each in after
    )


def _denied(rules: list[Rule]) -> set[str]:
    return {address for rule in rules if isinstance(rule, Deny) for address in rule.recipients}


def _known_by(rules: list[Rule]) -> tuple[frozenset[Source], int]:
    named = [rule for rule in rules if isinstance(rule, Recipients)]
    sources = EVERY_SOURCE.intersection(*(rule.sources for rule in named))
    return sources, max((rule.cool_down_seconds for rule in named), default=0)


def _per_transaction(before: list[Rule], after: list[Rule]) -> Iterator[tuple[str, bool]]:
    was, becomes = _smallest(before), _smallest(after)
    if was != becomes:
        sentence = f"at most at once: {_said(was)} becomes {_said(becomes)}"
        yield sentence, was is not None and (becomes is None or becomes > was)


def _smallest(rules: list[Rule]) -> Decimal | None:
    return min((rule.maximum for rule in rules if isinstance(rule, LimitPerTransaction)), default=None)


def _per_day(before: list[Rule], after: list[Rule]) -> Iterator[tuple[str, bool]]:
    old = [rule for rule in before if isinstance(rule, LimitPerDay)]
    new = [rule for rule in after if isinstance(rule, LimitPerDay)]
    for rule in old:
        if not any(_binds_as_much(each, rule) for each in new):
            yield f"in 24 hours no longer {_day(rule)}", True
    for rule in new:
        if not any(_binds_as_much(each, rule) for each in old):
            yield f"in 24 hours {_day(rule)}", False


def _binds_as_much(wide: LimitPerDay, narrow: LimitPerDay) -> bool:
    covers = Scope(purposes=wide.purposes, chains=wide.chains).covers(
        Scope(purposes=narrow.purposes, chains=narrow.chains)
    )
    return covers and wide.maximum <= narrow.maximum and (narrow.per_recipient or not wide.per_recipient)


def _day(rule: LimitPerDay) -> str:
    whose = " a recipient" if rule.per_recipient else ""
    return f"at most {rule.maximum:f} {rule.currency}{whose} ({rule.in_words()})"


def _hours(before: list[Rule], after: list[Rule]) -> Iterator[tuple[str, bool]]:
    was, becomes = _minutes(before), _minutes(after)
    if becomes - was:
        yield f"allowed {len(becomes - was)} more minutes of the week", True
    if was - becomes:
        yield f"forbidden {len(was - becomes)} minutes of the week", False


def _minutes(rules: list[Rule]) -> frozenset[int]:
    return EVERY_MINUTE.intersection(*(rule.minutes() for rule in rules if isinstance(rule, Hours)))


def _approvals(cell: _Cell, old: Policy, new: Policy, genesis: Genesis) -> Iterator[tuple[str, bool]]:
    amounts = {Decimal(0)} | {
        tier.from_
        for policy in (old, new)
        for rule in cell.rules(policy)
        if isinstance(rule, Approvals)
        for tier in rule.tiers
    }
    for amount in sorted(amounts):
        _, was = required_approvals(old, genesis, cell.purpose, cell.chain_id, cell.currency, amount)
        _, becomes = required_approvals(new, genesis, cell.purpose, cell.chain_id, cell.currency, amount)
        if was != becomes:
            yield f"persons who must approve from {amount:f} on: {was} becomes {becomes}", becomes < was


def _said(maximum: Decimal | None) -> str:
    return "any amount" if maximum is None else f"{maximum:f}"
