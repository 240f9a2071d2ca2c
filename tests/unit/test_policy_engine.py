"""What the engine says of single requests, under the example of docs/custody/policy.md and under small policies."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from custody.policy import Approval, Decision, HandOut, Request, Situation, judge, strictest
from custody.policy.engine import plain
from tests.policy_files import (
    BUYER,
    NOW,
    PAYER,
    PROXY,
    SELLER,
    SELLER_TWO,
    STRANGER,
    TREASURY_BSC,
    TREASURY_ETH,
    USDT_BSC,
    USDT_ETH,
    Fleet,
    approver,
    entry_said,
    genesis_said,
    key,
    parsed_policy,
)

UNIT = 10**18
FLEET = Fleet()
GENESIS = FLEET.genesis()
BOOK = FLEET.book()


def release(amount: int = 100, **changed: Any) -> Request:
    """A release of whole USDT on chain 56."""
    return Request.model_validate(
        {
            "intent": "intent-1",
            "purpose": "release",
            "chain_id": 56,
            "token": USDT_BSC,
            "recipient": SELLER,
            "amount_units": amount * UNIT,
            "requested_by": "releases",
            "beneficiary": "seller-1",
        }
        | changed
    )


def approved(*people: str, intent: str = "intent-1") -> tuple[Approval, ...]:
    return tuple(Approval(approver=key(person).address, intent=intent) for person in people)


def handed_out(amount: int, seconds_ago: int, **changed: Any) -> HandOut:
    return HandOut.model_validate(
        {
            "intent": f"earlier-{amount}-{seconds_ago}",
            "at": NOW - timedelta(seconds=seconds_ago),
            "purpose": "release",
            "chain_id": 56,
            "token": USDT_BSC,
            "recipient": SELLER,
            "amount_units": amount * UNIT,
        }
        | changed
    )


def decide(
    request: Request,
    *people: str,
    rules: Sequence[Mapping[str, Any]] | None = None,
    now: datetime = NOW,
    spent: Sequence[HandOut] = (),
    fleet: Fleet = FLEET,
) -> Decision:
    genesis = fleet.genesis()
    return judge(
        request,
        Situation(now, spent, approved(*people)),
        genesis=genesis.genesis,
        policy=parsed_policy(genesis.root, rules),
        policy_hash="ab" * 32,
        book=fleet.book(),
    )


ALL = {"name": "all", "kind": "allow"}
NOBODY = {"name": "nobody", "kind": "approvals", "tiers": [{"from": "0", "k": 0}]}


def test_the_pages_example_by_amount() -> None:
    small = decide(release(999))
    assert (small.outcome, small.rule, small.approvals_required) == ("needs_approvals", "by-amount", 1)
    assert small.sentence == "1 more of 1 persons must approve (nobody did)"
    done = decide(release(999), "ada")
    assert (done.outcome, done.rule, done.approved_by) == ("allowed", "payouts", ("ada",))
    assert (done.policy_hash, done.policy_version, done.amount) == ("ab" * 32, 1, Decimal(999))
    assert decide(release(1000), "ada").outcome == "needs_approvals"
    assert decide(release(1000), "bob", "ada").is_allowed


def test_every_rule_has_its_word_deny_rules_first() -> None:
    words = decide(release(999), "ada").words
    said = [word.rule for word in words if not word.rule.startswith("genesis:")]
    assert said == [rule.name for rule in parsed_policy(GENESIS.root).rules]
    assert [word.verdict for word in words if word.rule in {"no-refunds-of-coins", "usdt-at-once"}] == [
        "not_concerned",
        "passes",
    ]
    late = decide(release(), rules=[ALL, {"name": "stop", "kind": "deny", "reason": "stopped", "chains": [1]}])
    assert [word.rule for word in late.words[-3:]] == ["stop", "all", "genesis:k"]


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (release(chain_id=137), "genesis:chain"),
        (release(token=USDT_ETH), "genesis:token"),
        (release(recipient=STRANGER), "genesis:known-recipient"),
        (release(recipient=SELLER_TWO), "genesis:known-recipient"),
        (release(beneficiary=None), "genesis:known-recipient"),
        (release(recipient=STRANGER, buyer_signed_recipient=True), "genesis:known-recipient"),
        (release(recipient=None), "genesis:recipient"),
        (release(recipient=TREASURY_BSC), "genesis:not-our-own"),
        (release(recipient=TREASURY_ETH), "genesis:not-our-own"),
        (release(recipient=USDT_BSC), "genesis:not-our-own"),
        (release(recipient=PROXY), "genesis:not-our-own"),
        (release(purpose="sweep"), "genesis:sweep-to-treasury"),
        (release(purpose="sweep", recipient=TREASURY_ETH), "genesis:sweep-to-treasury"),
        (release(purpose="gas_funding", recipient=PAYER), "genesis:gas-payer"),
        (release(purpose="gas_funding", token="native"), "genesis:gas-payer"),
        (release(purpose="adjustment"), "genesis:recipient"),
        (release(purpose="refund", recipient=STRANGER), "genesis:known-recipient"),
    ],
)
def test_what_no_policy_can_loosen(request_: Request, rule: str) -> None:
    decision = decide(request_, "ada", "bob", "cyd", rules=[ALL, NOBODY])
    assert (decision.outcome, decision.rule) == ("denied", rule)


def test_what_the_fixed_rules_let_through() -> None:
    assert decide(release(purpose="sweep", recipient=TREASURY_BSC)).rule == "into-the-treasury"
    funding = release(purpose="gas_funding", recipient=PAYER, token="native")
    assert decide(funding).rule == "default-deny"
    assert decide(funding, rules=[ALL, NOBODY]).is_allowed
    refund = release(purpose="refund", recipient=BUYER, buyer_signed_recipient=True, beneficiary="buyer-1")
    assert decide(refund, "ada").is_allowed


def test_a_removed_recipient_is_not_paid_even_where_the_buyer_signed() -> None:
    removed = entry_said(0, "", SELLER, "seller-1", action="remove", added_at=NOW)
    fleet = Fleet(entries=(*FLEET.entries[:3], removed))
    assert decide(release(), "ada", fleet=fleet).rule == "genesis:removed-recipient"
    refund = release(purpose="refund", buyer_signed_recipient=True)
    assert decide(refund, "ada", fleet=fleet).rule == "genesis:removed-recipient"
    again = Fleet(entries=(*fleet.entries, entry_said(0, "", SELLER, "seller-1", added_at=NOW)))
    assert decide(release(), "ada", fleet=again).rule == "known-two-days"
    assert decide(release(), "ada", rules=[ALL, NOBODY], fleet=again).is_allowed


@pytest.mark.parametrize(("age_seconds", "is_allowed"), [(172_799, False), (172_800, True)])
def test_cool_down(age_seconds: int, *, is_allowed: bool) -> None:
    entry = entry_said(0, "", SELLER, "seller-1", added_at=NOW - timedelta(seconds=age_seconds))
    decision = decide(release(), "ada", fleet=Fleet(entries=(entry,)))
    assert decision.is_allowed is is_allowed
    assert is_allowed or decision.rule == "known-two-days"


def test_a_recipients_rule_can_ask_for_the_buyers_own_signature() -> None:
    rule = {"name": "signed", "kind": "recipients", "sources": ["buyer_signature"], "cool_down_seconds": 0}
    refund = release(purpose="refund")
    assert decide(refund, rules=[rule, ALL, NOBODY]).rule == "signed"
    assert decide(release(purpose="refund", buyer_signed_recipient=True), rules=[rule, ALL, NOBODY]).is_allowed


def test_at_most_at_once_to_the_smallest_unit() -> None:
    assert decide(release(5000), "ada", "bob").is_allowed
    over = decide(release(amount_units=5000 * UNIT + 1), "ada", "bob")
    assert (over.outcome, over.rule) == ("denied", "usdt-at-once")
    assert over.sentence == "5000.000000000000000001 USDT of at most 5000 at once"


@pytest.mark.parametrize(
    ("spent", "is_allowed"),
    [
        ([handed_out(7000, 10)], True),
        ([handed_out(7001, 10)], False),
        ([handed_out(7001, 86_399)], False),
        ([handed_out(7001, 86_400)], True),
        ([handed_out(7001, -3_600)], False),  # the clock was set back an hour
        ([handed_out(4000, 10), handed_out(3001, 20, purpose="refund")], False),
        ([handed_out(7001, 10, recipient=SELLER_TWO)], True),
        ([handed_out(7001, 10, purpose="sweep")], True),
        ([handed_out(7001, 10, intent="intent-1")], True),  # itself, judged again before broadcast
    ],
)
def test_a_recipients_day(spent: list[HandOut], *, is_allowed: bool) -> None:
    decision = decide(release(1000), "ada", "bob", spent=spent)
    assert decision.is_allowed is is_allowed
    assert is_allowed or decision.rule == "usdt-a-day-each"


def test_a_day_adds_up_over_chains_with_other_decimals() -> None:
    elsewhere = handed_out(0, 5, chain_id=1, token=USDT_ETH, recipient=STRANGER, amount_units=19_000 * 10**6)
    assert decide(release(1000), "ada", "bob", spent=[elsewhere]).is_allowed
    over = decide(release(amount_units=1000 * UNIT + 1), "ada", "bob", spent=[elsewhere])
    assert (over.outcome, over.rule) == ("denied", "usdt-a-day")
    assert over.sentence == "19000 + 1000.000000000000000001 USDT of at most 20000 in 24 hours"


def test_a_day_with_a_token_that_nobody_knows_is_denied() -> None:
    decision = decide(release(), "ada", spent=[handed_out(1, 5, token=USDT_ETH)])
    assert (decision.outcome, decision.rule) == ("denied", "usdt-a-day")


@pytest.mark.parametrize(
    ("now", "is_allowed"),
    [
        (datetime.fromisoformat("2019-01-16T07:00:00+00:00"), True),
        (datetime.fromisoformat("2019-01-16T06:59:59+00:00"), False),
        (datetime.fromisoformat("2019-01-16T18:59:59+00:00"), True),
        (datetime.fromisoformat("2019-01-16T19:00:00+00:00"), False),
        (datetime.fromisoformat("2019-01-19T11:59:59+00:00"), True),
        (datetime.fromisoformat("2019-01-19T12:00:00+00:00"), False),
        (datetime.fromisoformat("2019-01-20T10:00:00+00:00"), False),
    ],
)
def test_hours(now: datetime, *, is_allowed: bool) -> None:
    decision = decide(release(), "ada", now=now)
    assert decision.is_allowed is is_allowed
    assert is_allowed or decision.rule == "office-hours"


# Approvals


def fleet_of(**changed: Any) -> Fleet:
    return Fleet(genesis_said(approvers=[approver("ada"), approver("bob"), approver("cyd", **changed)]))


@pytest.mark.parametrize(
    ("request_", "fleet"),
    [
        (release(requested_by="cyd"), FLEET),
        (release(requested_by=" CYD "), FLEET),
        (release(requested_by=key("cyd").address), FLEET),
        (release(requested_by="user-3"), fleet_of(user_id="user-3")),
        (release(requested_by="cyd"), fleet_of(user_id="user-3")),
        (release(), fleet_of(user_id="seller-1")),
        (release(intent="intent-2"), FLEET),
        (release(), fleet_of(powers=["policy", "refund"])),
        (release(), fleet_of(revoked_at=NOW)),
        (release(), fleet_of(valid_from=NOW + timedelta(seconds=1))),
    ],
)
def test_an_approval_that_does_not_count(request_: Request, fleet: Fleet) -> None:
    decision = decide(request_, "cyd", fleet=fleet)
    assert (decision.outcome, decision.approved_by) == ("needs_approvals", ())
    assert decide(release(), "cyd").is_allowed


def test_a_person_approves_once_and_a_stranger_never() -> None:
    decision = decide(release(1000), "ada", "ada", "eve")
    assert (decision.outcome, decision.approved_by) == ("needs_approvals", ("ada",))


def test_without_a_rule_the_genesis_k_binds() -> None:
    assert decide(release(), "ada", rules=[ALL]).rule == "genesis:k"
    assert decide(release(), "ada", "bob", rules=[ALL]).is_allowed
    assert decide(release(purpose="sweep", recipient=TREASURY_BSC), rules=[ALL]).is_allowed


def test_smallest_units_take_one_more_person() -> None:
    """R2: whoever reads them on the device is one, and one more approver agrees to it beforehand."""
    two = decide(release(), "ada", "bob", rules=[ALL])
    assert (two.outcome, two.approvals_required) == ("allowed", 2)
    raw = decide(release(raw_units=True), "ada", "bob", rules=[ALL])
    assert (raw.outcome, raw.rule, raw.approvals_required) == ("needs_approvals", "genesis:raw-units", 3)
    assert raw.sentence == "1 more of 3 persons must approve (ada, bob did)"
    assert decide(release(raw_units=True), "ada", "bob", "cyd", rules=[ALL]).is_allowed


def test_an_adjustment_needs_two_whatever_a_policy_says() -> None:
    adjustment = release(purpose="adjustment", recipient=None)
    one = decide(adjustment, "ada", rules=[ALL, NOBODY])
    assert (one.outcome, one.rule, one.approvals_required) == ("needs_approvals", "genesis:k", 2)
    assert decide(adjustment, "ada", "bob", rules=[ALL, NOBODY]).is_allowed
    assert not decide(release(purpose="adjustment", recipient=None, requested_by="ada"), "ada", "bob").is_allowed


def test_what_nothing_allows_is_denied() -> None:
    decision = decide(release(), "ada", "bob", rules=[ALL | {"purposes": ["refund"]}])
    assert (decision.outcome, decision.rule, decision.sentence) == ("denied", "default-deny", "no rule allows it")


def test_while_two_policies_bind_the_stricter_decides() -> None:
    allowed, waiting = decide(release(), "ada"), decide(release())
    denied = decide(release(chain_id=137))
    assert strictest(allowed, waiting) is strictest(waiting, allowed) is waiting
    assert strictest(waiting, denied, allowed) is denied
    more = decide(release(1000))
    assert strictest(waiting, more) is strictest(more, waiting) is more


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        ("0", "0"),
        ("1000", "1000"),
        ("1000.000", "1000"),
        ("0.50", "0.5"),
        ("1E+3", "1000"),
        ("1E-18", "0." + "0" * 17 + "1"),
    ],
)
def test_amounts_are_said_plainly_and_exactly(amount: str, said: str) -> None:
    assert plain(Decimal(amount)) == said
