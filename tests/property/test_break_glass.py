"""No sequence of break-glasses and requests lets out more than its bound, or lowers anything but one approval (R15)."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from custody.policy import Approval, BreakGlass, Decision, HandOut, Request, Situation, judge
from custody.policy.break_glass import open_glass
from custody.policy.rules import DAY_SECONDS
from tests.counts import declared
from tests.policy_files import NOW, PEOPLE, SELLER, SELLER_TWO, USDT_BSC, Fleet, entry_said, key, parsed_policy

UNTIMED = settings(
    deadline=None, max_examples=declared(400, 20)
)  # how long a judgement takes on a shared core says nothing
FRESH_FOR = timedelta(hours=30)
FLEET = Fleet(
    entries=(
        entry_said(1, "", SELLER, "seller-1"),
        # A day and more into every sequence it is still younger than the break-glass' own cool-down asks for.
        entry_said(2, "", SELLER_TWO, "seller-2", added_at=NOW - timedelta(hours=24) + FRESH_FOR),
    ),
    now=NOW + timedelta(days=9),
)
GENESIS, BOOK = FLEET.genesis(), FLEET.book()
TREASURY = 1_000
POLICY = parsed_policy(
    GENESIS.root,
    [
        {"name": "all", "kind": "allow"},
        {"name": "three", "kind": "approvals", "tiers": [{"from": "0", "k": 3}]},
    ],
)


@dataclass(frozen=True)
class Asked:
    """A request at a minute: units, to whom, and how many of the three persons approved it."""

    minute: int
    units: int
    recipient: str
    approvers: int


def _glass(
    number: int, proposed: int, life: int, sign: int, hear: int | None, veto: int | None, units: int
) -> BreakGlass:
    at = NOW + timedelta(minutes=proposed)
    signed = at + timedelta(minutes=sign)
    return BreakGlass(
        id=f"{number:04}",
        chain_id=56,
        token=USDT_BSC,
        maximum_units=units,
        treasury_units=TREASURY,
        proposed_at=at,
        expires_at=at + timedelta(minutes=life),
        signed_at=signed,
        is_verified=True,
        alarm_heard_at=None if hear is None else signed + timedelta(minutes=hear),
        vetoed_at=None if veto is None else at + timedelta(minutes=veto),
    )


good_or_not = st.booleans().map(lambda is_odd: not is_odd) | st.just(value=True)  # most of them could open
asked_there = st.tuples(
    st.integers(0, 80),
    st.sampled_from([30, 60, 99]) | st.integers(1, 120),
    st.sampled_from([SELLER, SELLER, SELLER, SELLER_TWO]),
    st.sampled_from([2, 2, 2, 2, 1, 0, 3]),
)
episodes = st.tuples(
    st.sampled_from([0, 5, 30, 70, 60 * 23, 60 * 25]) | st.integers(0, 60 * 30),  # minutes since the last one began
    good_or_not,
    st.tuples(
        st.sampled_from([15, 61, 600]),
        st.integers(0, 20),
        st.one_of(st.none(), st.integers(0, 40)),
        st.one_of(st.none(), st.integers(0, 70)),
        st.sampled_from([50, 400]),
    ),
    st.lists(asked_there, min_size=1, max_size=6),
)
glasses = st.builds(
    _glass,
    st.integers(0, 9999),
    st.integers(0, 30),
    st.sampled_from([60, 60, 600]),
    st.integers(0, 3),
    st.sampled_from([0, None]),
    st.sampled_from([None, None, 20]),
    st.just(100),
)


def _sequence(drawn: list[Any]) -> tuple[list[BreakGlass], list[Asked]]:
    """Each begins with a proposal, and what is asked for lies around it: elsewhere nothing could go wrong."""
    made: list[BreakGlass] = []
    asked: list[Asked] = []
    start = 0
    for number, (gap, is_good, odd, around) in enumerate(drawn):
        start += gap
        life, sign, hear, veto, units = (60, 1, 2, None, 400) if is_good else odd
        made.append(_glass(number, start, life, sign, hear, veto, units))
        asked += [Asked(start + offset, *rest) for offset, *rest in around]
    return made, asked


sequences = st.lists(episodes, min_size=1, max_size=6).map(_sequence)


def known_at(glass: BreakGlass, now: Any) -> BreakGlass | None:
    """What the database has of it by then."""
    if glass.signed_at > now:
        return None
    heard = glass.alarm_heard_at if glass.alarm_heard_at is not None and glass.alarm_heard_at <= now else None
    vetoed = glass.vetoed_at if glass.vetoed_at is not None and glass.vetoed_at <= now else None
    return replace(glass, alarm_heard_at=heard, vetoed_at=vetoed)


def decide(request: Request, situation: Situation) -> Decision:
    return judge(request, situation, genesis=GENESIS.genesis, policy=POLICY, policy_hash="ab" * 32, book=BOOK)


def said(number: int, asked: Asked) -> dict[str, Any]:
    return {
        "intent": str(number),
        "purpose": "release",
        "chain_id": 56,
        "token": USDT_BSC,
        "recipient": asked.recipient,
        "amount_units": asked.units,
    }


@UNTIMED
@given(sequences)
def test_no_sequence_lets_out_more_than_a_tenth_a_day(sequence: tuple[list[BreakGlass], list[Asked]]) -> None:
    made, asked = sequence
    moved: list[HandOut] = []
    by_glass: list[HandOut] = []
    for number, each in enumerate(sorted(asked, key=lambda one: one.minute)):
        now = NOW + timedelta(minutes=each.minute)
        situation = Situation(
            now,
            [one for one in moved if one.at > now - timedelta(seconds=DAY_SECONDS)],
            [Approval(approver=key(person).address, intent=str(number)) for person in PEOPLE[: each.approvers]],
            [known for glass in made if (known := known_at(glass, now)) is not None],
        )
        owner = "seller-1" if each.recipient == SELLER else "seller-2"
        request = Request.model_validate(said(number, each) | {"requested_by": "releases", "beneficiary": owner})
        decision = decide(request, situation)
        assert decision.approvals_required in {2, 3}
        if not decision.is_allowed:
            assert each.approvers < 3
            continue
        hand_out = HandOut.model_validate(said(number, each) | {"at": now})
        moved.append(hand_out)
        # What went out may be broadcast: judged again, at once and after the break-glass has ended, it still may.
        for later in (now, now + timedelta(hours=2)):
            again = replace(situation, now=later, handed_out=[*situation.handed_out, hand_out])
            assert decide(request, again).is_allowed
        if each.approvers < 3:
            assert each.approvers == 2
            entry = BOOK.entry(56, each.recipient, "payee")
            assert entry is not None
            assert now - entry.added_at >= timedelta(hours=24)
            by_glass.append(hand_out)
            [opened] = [
                glass
                for glass in made
                if glass.alarm_heard_at is not None
                and glass.signed_at + timedelta(minutes=10) <= now
                and glass.alarm_heard_at <= now < glass.expires_at
                and glass.expires_at - glass.proposed_at <= timedelta(hours=1)
                and not (glass.vetoed_at is not None and glass.vetoed_at <= now)
                and glass == next((one for one in made if one.id == _id_of(situation)), None)
            ][:1]
            assert hand_out.amount_units <= min(opened.maximum_units, TREASURY // 10)
    for start in by_glass:
        day = [one for one in by_glass if start.at <= one.at < start.at + timedelta(seconds=DAY_SECONDS)]
        assert sum(one.amount_units for one in day) <= TREASURY // 10


def _id_of(situation: Situation) -> str | None:
    found = open_glass(situation.break_glasses, chain_id=56, token=USDT_BSC, at=situation.now)
    return None if found is None else found.id


@UNTIMED
@given(
    st.lists(glasses, max_size=6), st.sampled_from(["adjustment", "sweep", "gas_funding", "refund"]), st.integers(0, 3)
)
def test_a_break_glass_changes_nothing_but_the_number_of_persons(
    made: list[BreakGlass], purpose: str, approvers: int
) -> None:
    for minute in (0, 30, 60):
        now = NOW + timedelta(minutes=minute)
        fields: dict[str, Any] = {
            "intent": "it", "purpose": purpose, "chain_id": 56, "token": USDT_BSC, "amount_units": 5,
            "recipient": None if purpose == "adjustment" else SELLER_TWO, "requested_by": "releases",
            "beneficiary": "seller-2", "buyer_signed_recipient": True,
        }  # fmt: skip
        request = Request.model_validate(fields)
        given_ = [Approval(approver=key(person).address, intent="it") for person in PEOPLE[:approvers]]
        # A refund to a wallet that is known since less than a day, or to one that only the buyer signed, too.
        assert (
            decide(request, Situation(now, (), given_, made)).outcome
            == decide(request, Situation(now, (), given_)).outcome
        )
