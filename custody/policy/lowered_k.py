"""How many persons must approve a request while a break-glass is open (R15). Pure."""

from datetime import timedelta
from typing import Final

from custody.policy.address_book import AddressBook
from custody.policy.break_glass import COOL_DOWN, K_FALLS_BY, K_FLOOR, SHARE, BreakGlass, open_glass
from custody.policy.requests import HandOut, Request, Situation, Word
from custody.policy.rules import Policy, Recipients

RULE: Final = "break-glass"


def lowered_k(
    required: int, request: Request, situation: Situation, policy: Policy, currency: str, book: AddressBook
) -> tuple[int, list[Word]]:
    """Persons needed, and what there is to say of an open break-glass.

    It is judged at the moment of the request's own hand-out where it has been handed out: what went to a signer within the
    hour may be broadcast after it. Everything that was handed out since it opened is counted, whoever approved it.
    """
    if request.purpose not in ("release", "refund") or required <= K_FLOOR:
        return required, []
    own = next((each for each in situation.handed_out if each.intent == request.intent), None)
    at = situation.now if own is None else min(own.at, situation.now)
    glass = open_glass(situation.break_glasses, chain_id=request.chain_id, token=request.token, at=at)
    if glass is None:
        return required, []
    refusal = _too_fresh(request, situation, policy, currency, book) or _too_much(glass, request, situation, own)
    if refusal is not None:
        return required, [Word(RULE, "not_concerned", f"{glass.id} does not count: {refusal}")]
    lowered = max(K_FLOOR, required - K_FALLS_BY)
    until = f"{glass.expires_at:%Y-%m-%d %H:%M} UTC"
    return lowered, [Word(RULE, "passes", f"{glass.id}: {lowered} in place of {required} persons until {until}")]


def _too_fresh(request: Request, situation: Situation, policy: Policy, currency: str, book: AddressBook) -> str | None:
    """Only the address book knows since when a recipient is known; a buyer's signature has no age."""
    entry = None if request.recipient is None else book.entry(request.chain_id, request.recipient, "payee")
    if entry is None:
        return f"recipient {request.recipient} is not in the address book"
    asked = [
        timedelta(seconds=rule.cool_down_seconds)
        for rule in policy.rules
        if isinstance(rule, Recipients) and rule.about(request.purpose, request.chain_id, currency)
    ]
    ready = entry.added_at + max((COOL_DOWN, *asked))
    if situation.now < ready:
        return f"entry {entry.number} cools down until {ready:%Y-%m-%d %H:%M:%S} UTC"
    return None


def _too_much(glass: BreakGlass, request: Request, situation: Situation, own: HandOut | None) -> str | None:
    opened = glass.opens_at
    spent = sum(
        each.amount_units
        for each in situation.handed_out
        if (each.chain_id, each.token) == (glass.chain_id, glass.token)
        and each.intent != request.intent
        and opened is not None
        and each.at >= opened
        and (own is None or each.at <= own.at)
    )
    # Once it is handed out its coins are on their way, and the balance that it came from is another.
    maximum = glass.maximum_units if own is not None else min(glass.maximum_units, glass.treasury_units // SHARE)
    if spent + request.amount_units > maximum:
        return f"{spent} + {request.amount_units} units of at most {maximum}"
    return None
