"""Break-glass at its edges: minutes, amounts, vetoes, revoked signers, what it never touches (R15)."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from custody.policy import BreakGlass, Decision, HandOut, Situation, judge
from custody.policy.break_glass import once_a_day
from custody.policy.operator_actions import ActionNotShowable, SignableAction
from custody.trezor.text_rows import rows_of
from tests.policy_files import NOW, SELLER, USDT_BSC, USDT_ETH, Fleet, entry_said, parsed_policy
from tests.unit.test_policy_engine import ALL, UNIT, approved, handed_out, release

FLEET = Fleet()
GENESIS = FLEET.genesis()
BOOK = FLEET.book()


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


GLASS = BreakGlass(
    id="glass",
    chain_id=56,
    token=USDT_BSC,
    maximum_units=100 * UNIT,
    treasury_units=5_000 * UNIT,
    proposed_at=NOW,
    expires_at=NOW + minutes(60),
    signed_at=NOW + minutes(5),
    is_verified=True,
    alarm_heard_at=NOW + minutes(6),
)


def decide(
    glass: BreakGlass | None,
    *people: str,
    at: datetime = NOW + timedelta(minutes=20),
    amount: int = 100,
    k: int = 3,
    spent: tuple[HandOut, ...] = (),
    rules: tuple[dict[str, Any], ...] = (),
    **changed: Any,
) -> Decision:
    tiers = {"name": "tiers", "kind": "approvals", "tiers": [{"from": "0", "k": k}]}
    return judge(
        release(amount, **changed),
        Situation(at, spent, approved(*people), () if glass is None else (glass,)),
        genesis=GENESIS.genesis,
        policy=parsed_policy(GENESIS.root, [ALL, tiers, *rules]),
        policy_hash="ab" * 32,
        book=BOOK,
    )


def test_one_person_fewer_while_it_is_open_and_said_so() -> None:
    assert decide(None, "ada", "bob").outcome == "needs_approvals"
    decision = decide(GLASS, "ada", "bob")
    assert (decision.outcome, decision.approvals_required) == ("allowed", 2)
    [word] = [word for word in decision.words if word.rule == "break-glass"]
    assert word.sentence == "glass: 2 in place of 3 persons until 2019-01-16 13:00 UTC"
    assert decide(GLASS, "ada").sentence == "1 more of 2 persons must approve (ada did)"


@pytest.mark.parametrize(("k", "needed"), [(4, 3), (3, 2), (2, 2), (1, 1), (0, 0)])
def test_k_falls_by_one_at_most_and_never_below_two(k: int, needed: int) -> None:
    assert decide(GLASS, k=k).approvals_required == needed


NEVER_OPEN: dict[str, dict[str, Any]] = {
    "nobody outside heard of it": {"alarm_heard_at": None},
    "longer than an hour": {"expires_at": NOW + minutes(61)},
    "its signers may no longer sign": {"is_verified": False},
    "vetoed before it opened": {"vetoed_at": NOW + minutes(14)},
    "vetoed after it opened": {"vetoed_at": NOW + minutes(19)},
    "another token": {"token": USDT_ETH},
    "another chain": {"chain_id": 1},
    "signed too late to open": {"signed_at": NOW + minutes(50)},
    "heard too late to open": {"alarm_heard_at": NOW + minutes(60)},
}


@pytest.mark.parametrize("why", NEVER_OPEN)
def test_it_does_not_count(why: str) -> None:
    assert decide(replace(GLASS, **NEVER_OPEN[why]), "ada", "bob").outcome == "needs_approvals"


@pytest.mark.parametrize(
    ("at", "is_open"),
    [(14.99, False), (15, True), (59.99, True), (60, False)],
)
def test_it_opens_ten_minutes_after_the_second_signature_and_ends_at_its_end(at: float, is_open: bool) -> None:
    assert decide(GLASS, "ada", "bob", at=NOW + minutes(at)).is_allowed is is_open


def test_it_opens_no_earlier_than_somebody_outside_has_heard() -> None:
    late = replace(GLASS, alarm_heard_at=NOW + minutes(30))
    assert not decide(late, "ada", "bob", at=NOW + minutes(29)).is_allowed
    assert decide(late, "ada", "bob", at=NOW + minutes(30)).is_allowed


def test_its_amount_counts_everything_handed_out_since_it_opened() -> None:
    assert not decide(GLASS, "ada", "bob", amount=101).is_allowed
    since = tuple(
        handed_out(amount, 0, at=NOW + minutes(at), intent=f"other-{amount}")
        for amount, at in ((30, 16), (500, 14), (20, 17))
    )
    assert decide(GLASS, "ada", "bob", amount=50, spent=since).is_allowed
    over = decide(GLASS, "ada", "bob", amount=51, spent=since)
    assert over.outcome == "needs_approvals"
    [word] = [word for word in over.words if word.rule == "break-glass"]
    assert word.sentence == f"glass does not count: {50 * UNIT} + {51 * UNIT} units of at most {100 * UNIT}"
    # With all three persons the break-glass is in nobody's way.
    assert decide(GLASS, "ada", "bob", "cyd", amount=51, spent=since).is_allowed


def test_a_tenth_of_what_is_there_now_binds_too() -> None:
    emptied = replace(GLASS, treasury_units=400 * UNIT)
    assert decide(emptied, "ada", "bob", amount=40).is_allowed
    assert not decide(emptied, "ada", "bob", amount=41).is_allowed


def test_what_was_handed_out_in_time_may_be_broadcast_later_unless_it_was_vetoed() -> None:
    own = handed_out(100, 0, at=NOW + minutes(59), intent="intent-1")
    other = handed_out(100, 0, at=NOW + minutes(59.5), intent="another")
    later = NOW + minutes(90)
    gone = replace(GLASS, treasury_units=0)  # the coins have left
    assert decide(gone, "ada", "bob", at=later, spent=(own, other)).is_allowed
    vetoed = replace(gone, vetoed_at=NOW + minutes(70))
    assert decide(vetoed, "ada", "bob", at=later, spent=(own, other)).outcome == "needs_approvals"
    too_late = handed_out(100, 0, at=NOW + minutes(61), intent="intent-1")
    assert decide(GLASS, "ada", "bob", at=later, spent=(too_late,)).outcome == "needs_approvals"


def test_only_wallets_past_the_cool_down() -> None:
    fresh = Fleet(entries=(entry_said(1, "", SELLER, "seller-1", added_at=NOW - timedelta(hours=23)),))
    tiers = {"name": "tiers", "kind": "approvals", "tiers": [{"from": "0", "k": 3}]}
    decision = judge(
        release(1),
        Situation(NOW + minutes(20), (), approved("ada", "bob"), (GLASS,)),
        genesis=GENESIS.genesis,
        policy=parsed_policy(GENESIS.root, [ALL, tiers]),
        policy_hash="ab" * 32,
        book=fresh.book(),
    )
    assert decision.outcome == "needs_approvals"
    assert any(
        "does not count: entry 1 cools down until 2019-01-16 13:00:00 UTC" in word.sentence for word in decision.words
    )
    # A rule that asks for a longer one for wallets binds, also where it is passed by a buyer's signature.
    known = {
        "name": "known", "kind": "recipients", "sources": ["address_book", "buyer_signature"],
        "cool_down_seconds": 30 * 86_400,
    }  # fmt: skip
    refund = decide(
        GLASS, "ada", "bob", rules=(known,), purpose="refund", buyer_signed_recipient=True, beneficiary="seller-1"
    )
    assert refund.outcome == "needs_approvals"


def test_denials_stay_denials() -> None:
    for rule in (
        {"name": "stop", "kind": "deny", "reason": "stopped"},
        {"name": "at-once", "kind": "limit_per_transaction", "currency": "USDT", "maximum": "99"},
    ):
        assert decide(GLASS, "ada", "bob", rules=(rule,)).outcome == "denied"


def test_once_in_24_hours_from_the_end_of_one_to_the_opening_of_the_next() -> None:
    def after(wait: timedelta, **changed: Any) -> BreakGlass:
        moved = {
            name: getattr(GLASS, name) + wait for name in ("proposed_at", "expires_at", "signed_at", "alarm_heard_at")
        }
        return replace(GLASS, **{"id": "second", **moved, **changed})

    day = timedelta(hours=24)
    assert once_a_day([GLASS, after(day + minutes(44))]) == [GLASS]
    second = after(day + minutes(45))  # opens at 15, GLASS ended at 60
    assert once_a_day([second, GLASS]) == [GLASS, second]
    # Whichever opens first counts, also when the other was signed before it and is heard of later.
    quick = after(minutes(1), id="quick")
    slow = replace(GLASS, alarm_heard_at=NOW + minutes(40))
    assert once_a_day([slow, quick]) == [quick]
    # One that never opened takes nobody's turn; one that was vetoed while open does.
    assert once_a_day([replace(GLASS, vetoed_at=NOW + minutes(9)), quick]) == [quick]
    closed = replace(GLASS, vetoed_at=NOW + minutes(15.5))
    assert once_a_day([closed, after(minutes(120))]) == [closed]
    # So does one whose signer was revoked since.
    revoked = replace(GLASS, is_verified=False)
    assert once_a_day([revoked, after(minutes(120))]) == [revoked]


SAID = (
    '{"token": "TOKEN", "reason": "cyd is on a plane", "maximum": "12.5", "chain_id": 56, '
    '"expires_at": "2019-01-16T13:00+00:00", "proposed_at": "2019-01-16T12:00:30.000001+00:00"}'
).replace("TOKEN", USDT_BSC)


def test_two_persons_see_token_maximum_end_and_reason() -> None:
    action = SignableAction("0192f0c1-ab5e-7c1a-8d2e-aabbccddeeff", "break_glass", 56, SAID)
    rows = rows_of(action.text("amn1"))
    assert [row.rstrip() for row in rows[:8]] == [
        "POLICY amn1",
        "break_glass 56",
        "nr ccddeeff",
        "until 01-16 13:00Z",
        f"{USDT_BSC[:9]}..{USDT_BSC[-7:]}",
        "max 12.5",
        "cyd is on a plane",
        action.hash().hex()[:18],
    ]
    assert "".join(rows).rstrip().endswith(action.hash().hex()[-10:])
    assert action.break_glass_scope().maximum == Decimal("12.5")
    assert action.power == "policy"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("13:00+00:00", "13:01+00:00"),
        ("13:00+00:00", "12:00+00:00"),
        ("13:00+00:00", "12:30:01+00:00"),
        ('"12.5"', '"NaN"'),
        ('"12.5"', '"-1"'),
        ('"12.5"', '"0"'),
        ('"12.5"', "null"),
        ("2019-01-16T13:00+00:00", "tomorrow"),
        ('"chain_id": 56', '"chain_id": 1'),
        ('"reason"', '"reasons"'),
    ],
)
def test_what_no_break_glass_says_is_not_shown(old: str, new: str) -> None:
    assert old in SAID
    with pytest.raises(ActionNotShowable):
        SignableAction("0192f0c1-ab5e-7c1a-8d2e-aabbccddeeff", "break_glass", 56, SAID.replace(old, new)).text("amn1")
