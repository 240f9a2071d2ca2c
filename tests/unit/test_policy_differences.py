"""What a change of policy is called, and which way it goes (R8)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from custody.policy import loosens, policy_differences
from tests.policy_files import STRANGER, Fleet, parsed_policy

GENESIS = Fleet().genesis()
ALLOW = {"name": "all", "kind": "allow", "purposes": ["release"], "currencies": ["USDC"]}
AT_ONCE = {"name": "once", "kind": "limit_per_transaction", "currency": "USDC", "maximum": "100"}
A_DAY = {"name": "day", "kind": "limit_per_day", "currency": "USDC", "maximum": "100"}
KNOWN = {"name": "known", "kind": "recipients", "sources": ["address_book"], "cool_down_seconds": 60}
HOURS = {"name": "hours", "kind": "hours", "windows": [{"days": ["mon"], "from": "08:00", "until": "09:00"}]}
TIERS = {"name": "k", "kind": "approvals", "tiers": [{"from": "0", "k": 1}, {"from": "50", "k": 2}]}
DENY = {"name": "no", "kind": "deny", "purposes": ["release"], "reason": "no"}
WHERE = ("release of USDC on chain 1",)


def said(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    found = policy_differences(
        parsed_policy(GENESIS.root, [ALLOW, *old]), parsed_policy(GENESIS.root, [ALLOW, *new]), GENESIS.genesis
    )
    assert all(each.where == WHERE for each in found)
    return [(each.sentence, each.loosens) for each in found]


@pytest.mark.parametrize(
    ("tight", "loose", "loosened", "tightened"),
    [
        ([DENY], [], "becomes allowed", "becomes forbidden"),
        ([DENY | {"recipients": [STRANGER]}], [], f"no longer denied to {STRANGER}", f"denied to {STRANGER}"),
        (
            [AT_ONCE],
            [AT_ONCE | {"maximum": "200"}],
            "at most at once: 100 becomes 200",
            "at most at once: 200 becomes 100",
        ),
        ([AT_ONCE], [], "at most at once: 100 becomes any amount", "at most at once: any amount becomes 100"),
        (
            [A_DAY],
            [],
            "in 24 hours no longer at most 100 USDC (anything)",
            "in 24 hours at most 100 USDC (anything)",
        ),
        (
            [KNOWN],
            [KNOWN | {"cool_down_seconds": 0}],
            "cool-down of a new recipient: 60 s becomes 0 s",
            "cool-down of a new recipient: 0 s becomes 60 s",
        ),
        (
            [KNOWN],
            [KNOWN | {"sources": ["address_book", "buyer_signature"]}],
            "a recipient may also be known by buyer_signature",
            "a recipient is no longer known by buyer_signature",
        ),
        (
            [HOURS],
            [HOURS | {"windows": [{"days": ["mon"], "from": "08:00", "until": "10:00"}]}],
            "allowed 60 more minutes of the week",
            "forbidden 60 minutes of the week",
        ),
        (
            [TIERS | {"tiers": [{"from": "0", "k": 2}]}],
            [TIERS],
            "persons who must approve from 0 on: 2 becomes 1",
            "persons who must approve from 0 on: 1 becomes 2",
        ),
        (
            [],
            [TIERS],
            "persons who must approve from 0 on: 2 becomes 1",
            "persons who must approve from 0 on: 1 becomes 2",
        ),
    ],
)
def test_a_change_in_both_directions(
    tight: list[dict[str, Any]], loose: list[dict[str, Any]], loosened: str, tightened: str
) -> None:
    assert said(tight, loose) == [(loosened, True)]
    assert said(loose, tight) == [(tightened, False)]


def test_a_smaller_day_tightens_and_a_narrower_one_loosens() -> None:
    assert said([A_DAY], [A_DAY | {"maximum": "99"}]) == [("in 24 hours at most 99 USDC (anything)", False)]
    assert loosens(
        policy_differences(
            parsed_policy(GENESIS.root, [ALLOW, A_DAY]),
            parsed_policy(GENESIS.root, [ALLOW, A_DAY | {"chains": [1]}]),
            GENESIS.genesis,
        )
    )
    assert [way for _, way in said([A_DAY], [A_DAY | {"per_recipient": True}])] == [True]


def test_two_recipient_rules_are_not_one() -> None:
    # One asks for the book with a wait, the other for the buyer's word; together they let fewer through than either.
    both = [KNOWN, KNOWN | {"name": "also", "sources": ["address_book", "buyer_signature"], "cool_down_seconds": 600}]
    one = [KNOWN | {"cool_down_seconds": 600}]
    assert said(one, both) == [("recipient rules no longer ask what 'known' asked", True)]


def test_a_new_name_or_order_changes_nothing() -> None:
    assert said([AT_ONCE, KNOWN], [KNOWN | {"name": "other"}, AT_ONCE]) == []
