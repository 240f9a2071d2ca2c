"""The engine: a request, a moment, the verified files; out comes a decision. Pure (R8, R10, R18, R24).

Fixed rules of the genesis run first, then deny rules, then what else can deny, then approvals, then what allows, each in
the file's order. The first that denies decides; nothing that allows is a denial.
"""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

from custody.chain.assets import to_amount, to_units
from custody.policy.address_book import AddressBook
from custody.policy.fixed_rules import ADJUSTMENT_K, fixed_words
from custody.policy.genesis import Genesis, GenesisToken, power_for
from custody.policy.lowered_k import lowered_k
from custody.policy.requests import Decision, HandOut, Outcome, Request, Situation, Verdict, Word, role_paid
from custody.policy.rules import (
    DAY_SECONDS,
    Allow,
    Approvals,
    Deny,
    Hours,
    LimitPerDay,
    LimitPerTransaction,
    Policy,
    Recipients,
    Rule,
    week_minute,
)

NO_RULE: Final = "default-deny"
GENESIS_K: Final = "genesis:k"
RAW_UNITS: Final = "genesis:raw-units"
ROTATION: Final = "genesis:rotation"
ADDITION_DECIMALS: Final = 18  # amounts of a currency add up over chains where its token has fewer decimals
_SEVERITY: Final[dict[Outcome, int]] = {"allowed": 0, "needs_approvals": 1, "denied": 2}


def judge(
    request: Request, situation: Situation, *, genesis: Genesis, policy: Policy, policy_hash: str, book: AddressBook
) -> Decision:
    """What the policy says of a request now. The files must be verified (custody.policy.verified)."""
    words = fixed_words(request, genesis, book)
    chain = genesis.chain(request.chain_id)
    token = None if chain is None else chain.token(request.token)
    approved_by = approving_persons(request, situation, genesis)
    required, amount = 0, Decimal(0)
    asking = ""
    if token is not None:
        amount = to_amount(request.amount_units, token.decimals)
        case = _Case(request, situation, genesis, book, token, amount)
        words += [_word(rule, case) for rule in sorted(policy.rules, key=_rank)]
        asking, required = required_approvals(
            policy, genesis, request.purpose, request.chain_id, token.currency, amount
        )
        required, said = lowered_k(required, request, situation, policy, token.currency, book)
        words += said
        if request.raw_units:
            # After a break-glass, which has no effect on readability (R15).
            required += 1
            words.append(Word(RAW_UNITS, "passes", "the device shows smallest units: one more person approves"))
            asking = RAW_UNITS
        if required > len(approved_by):
            sentence = f"{required} persons must approve, {', '.join(approved_by) or 'nobody'} did"
            if asking in (GENESIS_K, RAW_UNITS):
                words.append(Word(GENESIS_K, "needs_approvals", sentence))
    if (
        request.purpose == "drain"
    ):  # the genesis that names both treasuries has k signatures: no rule need allow it again
        words.append(Word(ROTATION, "allows", "the genesis names both treasuries (R22)"))
    outcome, rule, sentence = _decide(words, asking, required, approved_by)
    return Decision(outcome, rule, sentence, required, approved_by, tuple(words), policy_hash, policy.version, amount)


def strictest(*decisions: Decision) -> Decision:
    """The decision that binds while an old and a new policy both do: the one that asks for most (R8)."""
    return max(decisions, key=lambda each: (_SEVERITY[each.outcome], each.approvals_required))


def approving_persons(request: Request, situation: Situation, genesis: Genesis) -> tuple[str, ...]:
    """Distinct persons whose approvals count for this request now, sorted (R3, R10).

    Not counted: another intent's, an unknown, revoked or not yet valid approver's, one without the power for this
    purpose, and that of whoever asked for it or is paid by it.
    """
    power = power_for(request.purpose)
    active = {each.address: each for each in genesis.active_approvers(power, situation.now)}
    asked = request.requested_by.strip().casefold()
    found: set[str] = set()
    for approval in situation.approvals:
        approver = active.get(approval.approver)
        if approver is None or approval.intent != request.intent:
            continue
        if asked in {approver.person, approver.address.casefold(), (approver.user_id or approver.person).casefold()}:
            continue
        if request.beneficiary is not None and request.beneficiary == approver.user_id:
            continue
        found.add(approver.person)
    return tuple(sorted(found))


def required_approvals(
    policy: Policy, genesis: Genesis, purpose: str, chain_id: int, currency: str, amount: Decimal
) -> tuple[str, int]:
    """Which rule asks for most persons, and how many, for that many whole tokens. For a drain it is k at least.

    Without an approvals rule the genesis' k binds, but for sweeps, which cannot leave the house.
    """
    asked = [
        (rule.name, rule.required(amount))
        for rule in policy.rules
        if isinstance(rule, Approvals)
        and rule.about(purpose, chain_id, currency)
        and (purpose != "drain" or rule.purposes)
    ]
    if not asked or purpose == "drain":  # k named the treasury, and k move what lies at the one before
        asked.append((GENESIS_K, 0 if purpose == "sweep" else genesis.k))
    name, k = max(asked, key=lambda each: each[1])
    if purpose == "adjustment" and k < ADJUSTMENT_K:
        return GENESIS_K, ADJUSTMENT_K
    return name, k


@dataclass(frozen=True, slots=True)
class _Case:
    request: Request
    situation: Situation
    genesis: Genesis
    book: AddressBook
    token: GenesisToken
    amount: Decimal


def _rank(rule: Rule) -> int:
    match rule:
        case Deny():
            return 0
        case Approvals():
            return 2
        case Allow():
            return 3
        case _:
            return 1


_Said = tuple[Verdict, str]


def _concerns(rule: Rule, request: Request | HandOut, currency: str) -> bool:
    """Whether a rule speaks of the request. A drain stays in the house: what bounds payouts in general bounds it only by name.

    A general denial binds it too: deny rules come first.
    """
    is_general = request.purpose == "drain" and not rule.purposes and not isinstance(rule, Deny)
    return not is_general and rule.about(request.purpose, request.chain_id, currency)


def _word(rule: Rule, case: _Case) -> Word:
    request = case.request
    if not _concerns(rule, request, case.token.currency):
        return Word(rule.name, "not_concerned", f"speaks of {rule.in_words()}")
    said: _Said
    match rule:
        case Deny():
            is_about = not rule.recipients or request.recipient in rule.recipients
            said = ("denies", rule.reason) if is_about else ("not_concerned", "speaks of other recipients")
        case Recipients():
            said = _recipient_said(rule, case)
        case LimitPerTransaction():
            sentence = f"{plain(case.amount)} {rule.currency} of at most {plain(rule.maximum)} at once"
            said = ("denies" if case.amount > rule.maximum else "passes", sentence)
        case LimitPerDay():
            said = _day_said(rule, case)
        case Hours():
            is_open = week_minute(case.situation.now) in rule.minutes()
            said = ("passes" if is_open else "denies", f"it is {case.situation.now:%a %H:%M} UTC")
        case Approvals():
            k = rule.required(case.amount)
            persons = approving_persons(request, case.situation, case.genesis)
            sentence = f"{k} persons must approve, {', '.join(persons) or 'nobody'} did"
            said = ("passes" if len(persons) >= k else "needs_approvals", sentence)
        case Allow():
            said = ("allows", rule.in_words())
    return Word(rule.name, *said)


def _recipient_said(rule: Recipients, case: _Case) -> _Said:
    request = case.request
    if request.purpose in ("sweep", "adjustment", "drain") or request.recipient is None:
        return "not_concerned", f"a {request.purpose} pays nobody outside"
    if "buyer_signature" in rule.sources and request.purpose == "refund" and request.buyer_signed_recipient:
        return "passes", "the buyer signed the recipient"
    if "address_book" not in rule.sources:
        return "denies", "the buyer did not sign the recipient"
    role = role_paid(request.purpose)
    entry = case.book.entry(request.chain_id, request.recipient, role)
    if entry is None:
        return "denies", f"{request.recipient} is not in the address book"
    ready = entry.added_at + timedelta(seconds=rule.cool_down_seconds)
    if case.situation.now < ready:
        return "denies", f"entry {entry.number} cools down until {ready:%Y-%m-%d %H:%M:%S} UTC"
    return "passes", f"entry {entry.number}, {entry.label!r}"


def _day_said(rule: LimitPerDay, case: _Case) -> _Said:
    spent = 0
    since = case.situation.now - timedelta(seconds=DAY_SECONDS)
    for each in case.situation.handed_out:
        # One with a later time than now counts too: a clock set back gives nobody a new day (R24).
        if each.at <= since or each.intent == case.request.intent:
            continue
        chain = case.genesis.chain(each.chain_id)
        token = None if chain is None else chain.token(each.token)
        if token is None:
            return "denies", f"token {each.token} was handed out today and is not in the genesis"
        if _concerns(rule, each, token.currency) and _same_recipient(rule, each, case.request):
            spent += _addable(each.amount_units, token.decimals)
    total = spent + _addable(case.request.amount_units, case.token.decimals)
    maximum = to_units(rule.maximum, ADDITION_DECIMALS)
    whose = "the recipient's " if rule.per_recipient else ""
    said = plain(to_amount(spent, ADDITION_DECIMALS))
    sentence = f"{whose}{said} + {plain(case.amount)} {rule.currency} of at most {plain(rule.maximum)} in 24 hours"
    return "denies" if total > maximum else "passes", sentence


def plain(amount: Decimal) -> str:
    """Whole tokens as people write them: every digit, no exponent, no zeros behind the last one."""
    said = f"{amount:f}"
    return said.rstrip("0").rstrip(".") if "." in said else said


def _same_recipient(rule: LimitPerDay, handed_out: HandOut, request: Request) -> bool:
    return not rule.per_recipient or handed_out.recipient == request.recipient


def _addable(units: int, decimals: int) -> int:
    return units * 10 ** (ADDITION_DECIMALS - decimals)


def _decide(words: list[Word], asking: str, required: int, approved_by: tuple[str, ...]) -> tuple[Outcome, str, str]:
    for word in words:
        if word.verdict == "denies":
            return "denied", word.rule, word.sentence
    allowing = next((word for word in words if word.verdict == "allows"), None)
    if allowing is None:
        return "denied", NO_RULE, "no rule allows it"
    if len(approved_by) < required:
        missing = required - len(approved_by)
        who = ", ".join(approved_by) or "nobody"
        return "needs_approvals", asking, f"{missing} more of {required} persons must approve ({who} did)"
    return "allowed", allowing.rule, allowing.sentence
