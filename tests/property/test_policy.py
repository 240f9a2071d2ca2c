"""What must hold of the policy engine whatever the rules, the requests and their order."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from custody.policy import (
    Approval,
    Decision,
    HandOut,
    Policy,
    Request,
    Situation,
    judge,
    loosens,
    policy_differences,
)
from custody.policy.rules import DAY_SECONDS, PURPOSES
from tests.counts import declared
from tests.policy_files import (
    BUYER,
    NOW,
    PAYER,
    PEOPLE,
    SELLER,
    SELLER_TWO,
    STRANGER,
    TREASURY_BSC,
    TREASURY_ETH,
    USDC_ETH,
    USDT_BSC,
    USDT_ETH,
    Fleet,
    key,
    parsed_policy,
)

UNTIMED = settings(
    deadline=None, max_examples=declared(400, 15)
)  # how long a judgement takes on a shared core says nothing
FLEET = Fleet()
ROOT = FLEET.genesis().root
GENESIS = FLEET.genesis().genesis
BOOK = FLEET.book()
ADDRESSES = {name: key(name).address for name in (*PEOPLE, "eve")}
TREASURIES = {56: TREASURY_BSC, 1: TREASURY_ETH}
MONEY = {(56, USDT_BSC): 18, (1, USDT_ETH): 6, (1, USDC_ETH): 6, (56, "native"): 18, (1, "native"): 18}
RECIPIENTS = (SELLER, SELLER_TWO, BUYER, PAYER, STRANGER, TREASURY_BSC, TREASURY_ETH, USDT_BSC)

subsets = st.lists(st.sampled_from(PURPOSES), unique=True, max_size=2)
scopes = st.fixed_dictionaries({"purposes": subsets, "chains": st.lists(st.sampled_from([56, 1]), max_size=1)})
amounts = st.sampled_from(["0", "5", "9.5", "40"])
currencies = st.sampled_from(["USDT", "USDC"])


def rule(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    own = st.fixed_dictionaries({"kind": st.just(kind), **fields})
    return st.tuples(scopes, own).map(lambda both: both[0] | both[1])


DENIES = rule("deny", reason=st.just("no"), recipients=st.lists(st.sampled_from(RECIPIENTS), max_size=2, unique=True))
KNOWN = rule(
    "recipients",
    sources=st.lists(st.sampled_from(["address_book", "buyer_signature"]), min_size=1, unique=True),
    cool_down_seconds=st.sampled_from([0, 86_400, 30 * 86_400]),
)
AT_ONCE = rule("limit_per_transaction", currency=currencies, maximum=amounts)
A_DAY = rule("limit_per_day", currency=currencies, maximum=amounts, per_recipient=st.booleans())
HOURS = rule(
    "hours", windows=st.sampled_from([[{"days": [day], "from": "08:00", "until": "18:00"}] for day in ("wed", "thu")])
)
TIERS = rule(
    "approvals",
    tiers=st.tuples(st.integers(0, 2), st.integers(0, 2)).map(
        lambda ks: [{"from": "0", "k": min(ks)}, {"from": "9", "k": max(ks)}]
    ),
)
ALLOWS = rule("allow")
RULES = st.tuples(
    st.lists(st.one_of(KNOWN, AT_ONCE, A_DAY, HOURS, TIERS, ALLOWS), min_size=1, max_size=4),
    st.sampled_from([[], [{"kind": "allow"}], [{"kind": "allow"}]]),
    st.one_of(st.just([]), st.just([]), st.lists(DENIES, max_size=2)),
).map(lambda parts: [*parts[0], *parts[1], *parts[2]])


def _request(money: tuple[int, str], fields: dict[str, Any]) -> Request:
    return Request.model_validate({"chain_id": money[0], "token": money[1], "intent": "intent", **fields})


def _hand_out(money: tuple[int, str], seconds_ago: int, fields: dict[str, Any]) -> HandOut:
    at = NOW - timedelta(seconds=seconds_ago)
    return HandOut.model_validate({"chain_id": money[0], "token": money[1], "at": at, "intent": "x", **fields})


def _situation(hours: int, handed_out: list[HandOut], given_: list[Approval]) -> Situation:
    return Situation(NOW + timedelta(hours=hours), handed_out, given_)


# Most requests of any kind fail a fixed rule; these get as far as the policy.
POSSIBLE: list[dict[str, Any]] = [
    {"purpose": "release", "recipient": SELLER, "beneficiary": "seller-1"},
    {"purpose": "refund", "recipient": BUYER, "beneficiary": "buyer-1", "buyer_signed_recipient": True},
    {"purpose": "refund", "recipient": SELLER, "beneficiary": "seller-1"},
    {"purpose": "adjustment", "recipient": None},
]
who = st.one_of(
    st.sampled_from(POSSIBLE),
    st.sampled_from(POSSIBLE),
    st.fixed_dictionaries(
        {
            "purpose": st.sampled_from(PURPOSES),
            "recipient": st.sampled_from([None, SELLER, *RECIPIENTS]),
            "beneficiary": st.sampled_from([None, "seller-1", "seller-2"]),
            "buyer_signed_recipient": st.booleans(),
        }
    ),
)
how_much = st.fixed_dictionaries(
    {
        "amount_units": st.one_of(st.integers(1, 50 * 10**6), st.integers(1, 50 * 10**18)),
        "requested_by": st.sampled_from(["releases", *PEOPLE]),
    }
)
requests = st.builds(
    _request, st.sampled_from(list(MONEY)), st.tuples(who, how_much).map(lambda both: both[0] | both[1])
)
approvals = st.lists(
    st.builds(
        Approval, approver=st.sampled_from(list(ADDRESSES.values())), intent=st.sampled_from(["intent", "other"])
    ),
    max_size=4,
)
hand_outs = st.lists(
    st.builds(
        _hand_out,
        st.sampled_from(list(MONEY)),
        st.integers(-10, 2 * DAY_SECONDS),
        st.fixed_dictionaries(
            {
                "purpose": st.sampled_from(PURPOSES),
                "recipient": st.sampled_from([SELLER, *RECIPIENTS]),
                "amount_units": st.integers(1, 10 * 10**6),
            }
        ),
    ),
    max_size=3,
)
situations = st.builds(_situation, st.integers(-30, 30), hand_outs, approvals)


def named(rules: Sequence[dict[str, Any]]) -> Policy:
    return parsed_policy(ROOT, [{**each, "name": f"rule-{place}"} for place, each in enumerate(rules)])


def decide(request: Request, situation: Situation, policy: Policy) -> Decision:
    return judge(request, situation, genesis=GENESIS, policy=policy, policy_hash="ab" * 32, book=BOOK)


@UNTIMED
@given(
    maximum=st.integers(1, 30),
    each_maximum=st.integers(1, 20),
    tries=st.lists(
        st.tuples(
            st.sampled_from([(56, USDT_BSC), (1, USDT_ETH)]),
            st.sampled_from([(SELLER, "seller-1"), (SELLER_TWO, "seller-2")]),
            st.integers(1, 12 * 10**6),
            st.integers(0, DAY_SECONDS // 2),
        ),
        max_size=25,
    ),
)
def test_no_sequence_of_requests_moves_more_than_the_limits(
    maximum: int,
    each_maximum: int,
    tries: list[tuple[tuple[int, str], tuple[str, str], int, int]],
) -> None:
    policy = named(
        [
            {"kind": "allow"},
            {"kind": "approvals", "tiers": [{"from": "0", "k": 0}]},
            {"kind": "limit_per_day", "currency": "USDT", "maximum": str(maximum)},
            {"kind": "limit_per_day", "currency": "USDT", "maximum": str(each_maximum), "per_recipient": True},
            {"kind": "limit_per_transaction", "currency": "USDT", "maximum": "9"},
        ]
    )
    now = NOW
    moved: list[HandOut] = []
    for number, ((chain_id, token), (to, owner), millionths, wait) in enumerate(tries):
        now += timedelta(seconds=wait)
        units = millionths * 10 ** (MONEY[chain_id, token] - 6)
        said: dict[str, Any] = {
            "intent": str(number),
            "purpose": "release",
            "chain_id": chain_id,
            "token": token,
            "recipient": to,
            "amount_units": units,
        }
        request = Request.model_validate(said | {"requested_by": "releases", "beneficiary": owner})
        if decide(request, Situation(now, moved), policy).is_allowed:
            moved.append(HandOut.model_validate(said | {"at": now}))
    for start in moved:
        day = [each for each in moved if start.at <= each.at < start.at + timedelta(seconds=DAY_SECONDS)]
        for recipients, most in (
            ((SELLER, SELLER_TWO), maximum),
            ((SELLER,), each_maximum),
            ((SELLER_TWO,), each_maximum),
        ):
            # An account of its own, in millionths of a token.
            total = sum(
                each.amount_units // 10 ** (MONEY[each.chain_id, each.token] - 6)
                for each in day
                if each.recipient in recipients
            )
            assert total <= most * 10**6


@UNTIMED
@given(requests, situations, RULES, st.data())
def test_a_deny_wins_whatever_the_order(
    request: Request, situation: Situation, rules: list[dict[str, Any]], data: st.DataObject
) -> None:
    deny = {"kind": "deny", "reason": "no", "purposes": [request.purpose]}
    order = data.draw(st.permutations([deny, *rules]))
    decision = decide(request, situation, named(order))
    assert decision.outcome == "denied"
    other = decide(request, situation, named(data.draw(st.permutations(order))))
    assert other.outcome == "denied"


@UNTIMED
@given(requests, situations, RULES, st.data())
def test_the_order_of_rules_changes_no_outcome(
    request: Request, situation: Situation, rules: list[dict[str, Any]], data: st.DataObject
) -> None:
    one = decide(request, situation, named(rules))
    other = decide(request, situation, named(data.draw(st.permutations(rules))))
    assert (one.outcome, one.approvals_required) == (other.outcome, other.approvals_required)


@UNTIMED
@given(requests, situations, RULES)
def test_nobody_approves_their_own_request(request: Request, situation: Situation, rules: list[dict[str, Any]]) -> None:
    policy = named(rules)
    decision = decide(request, situation, policy)
    assert request.requested_by not in decision.approved_by
    if request.requested_by in ADDRESSES:
        own = Approval(approver=ADDRESSES[request.requested_by], intent=request.intent)
        again = decide(request, Situation(situation.now, situation.handed_out, [*situation.approvals, own]), policy)
        assert (again.outcome, again.approved_by) == (decision.outcome, decision.approved_by)


@UNTIMED
@given(requests, situations, RULES, st.sampled_from(list(ADDRESSES.values())))
def test_an_approval_never_takes_anything_away(
    request: Request, situation: Situation, rules: list[dict[str, Any]], approver: str
) -> None:
    policy = named(rules)
    more = [*situation.approvals, Approval(approver=approver, intent=request.intent)]
    before = decide(request, situation, policy)
    after = decide(request, Situation(situation.now, situation.handed_out, more), policy)
    rank = {"denied": 0, "needs_approvals": 1, "allowed": 2}
    assert rank[after.outcome] >= rank[before.outcome]
    assert (before.outcome == "denied") == (after.outcome == "denied")
    assert set(after.approved_by) >= set(before.approved_by)


@UNTIMED
@given(requests, situations, RULES)
def test_a_sweep_reaches_the_treasury_of_its_chain_or_nothing(
    request: Request, situation: Situation, rules: list[dict[str, Any]]
) -> None:
    sweep = request.model_copy(update={"purpose": "sweep"})
    decision = decide(sweep, situation, named([*rules, {"kind": "allow"}]))
    if decision.outcome != "denied":
        assert sweep.recipient == TREASURIES[sweep.chain_id]
    if request.purpose != "sweep" and decide(request, situation, named(rules)).outcome != "denied":
        assert request.recipient not in TREASURIES.values()


@UNTIMED
@given(requests, situations, RULES)
def test_what_is_unknown_or_unnamed_is_denied(
    request: Request, situation: Situation, rules: list[dict[str, Any]]
) -> None:
    unknown_chain = request.model_copy(update={"chain_id": 137})
    unknown_token = request.model_copy(update={"token": STRANGER})
    for each in (unknown_chain, unknown_token):
        assert decide(each, situation, named([*rules, {"kind": "allow"}])).outcome == "denied"
    no_allow = [each for each in rules if each["kind"] != "allow"] or [{"kind": "deny", "reason": "no"}]
    assert decide(request, situation, named(no_allow)).outcome == "denied"


@UNTIMED
@given(requests, situations, RULES)
def test_an_allowed_request_has_its_approvals(
    request: Request, situation: Situation, rules: list[dict[str, Any]]
) -> None:
    decision = decide(request, situation, named(rules))
    if decision.outcome == "allowed":
        assert len(decision.approved_by) >= decision.approvals_required
        assert not any(word.verdict in ("denies", "needs_approvals") for word in decision.words)
    assert decision.rule in {word.rule for word in decision.words} | {"default-deny"}


@UNTIMED
@given(RULES, RULES, st.lists(st.tuples(requests, situations), min_size=1, max_size=6))
def test_a_policy_that_does_not_loosen_allows_nothing_new(
    old_rules: list[dict[str, Any]], new_rules: list[dict[str, Any]], cases: list[tuple[Request, Situation]]
) -> None:
    # Mostly kin: the old rules and some more.
    old, new = named(old_rules), named([*old_rules, *new_rules])
    for before, after in ((old, new), (new, old), (old, named(new_rules))):
        if loosens(policy_differences(before, after, GENESIS)):
            continue
        for request, situation in cases:
            was, becomes = decide(request, situation, before), decide(request, situation, after)
            rank = {"denied": 2, "needs_approvals": 1, "allowed": 0}
            assert rank[becomes.outcome] >= rank[was.outcome]


@UNTIMED
@given(RULES)
def test_a_policy_differs_in_nothing_from_itself(rules: list[dict[str, Any]]) -> None:
    policy = named(rules)
    assert policy_differences(policy, policy, GENESIS) == ()
