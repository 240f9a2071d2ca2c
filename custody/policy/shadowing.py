"""Rules that can never decide anything: an error, since whoever wrote one believes that it protects (R8)."""

from custody.policy.genesis import Genesis, power_for
from custody.policy.refusals import PolicyRefused
from custody.policy.rules import (
    PURPOSES,
    Allow,
    Approvals,
    Deny,
    Hours,
    LimitPerDay,
    LimitPerTransaction,
    Policy,
    Purpose,
    Recipients,
    Rule,
    Scope,
)


def check_rules(policy: Policy, genesis: Genesis, *, file: str) -> None:
    """Refuse a policy that has a shadowed rule, names what the genesis does not know, or can never be satisfied.

    Raises PolicyRefused naming the rule.
    """
    for rule in policy.rules:
        field = f"rules.{rule.name}"
        _check_names(rule, genesis, file=file, field=field)
        if isinstance(rule, Approvals):
            _check_satisfiable(rule, genesis, file=file, field=field)
    for place, rule in enumerate(policy.rules):
        for other_place, other in enumerate(policy.rules):
            # Of two that say the same, the later one is the one too many.
            if place != other_place and shadows(other, rule) and not (other_place > place and shadows(rule, other)):
                raise PolicyRefused(
                    file, f"rules.{rule.name}", f"is shadowed by {other.name!r}: it never decides anything; remove it"
                )


def shadows(wide: Rule, narrow: Rule) -> bool:
    """Whether ``wide`` decides all that ``narrow`` could, whatever the request."""
    return _scope(wide).covers(_scope(narrow)) and _is_stricter(wide, narrow)


def _is_stricter(wide: Rule, narrow: Rule) -> bool:
    match wide, narrow:
        case Deny(), Deny() if wide.recipients:
            found = bool(narrow.recipients) and set(narrow.recipients) <= set(wide.recipients)
        case Deny(), _:
            found = not wide.recipients
        case Allow(), Allow():
            found = True
        case Recipients(), Recipients():
            found = set(wide.sources) <= set(narrow.sources) and wide.cool_down_seconds >= narrow.cool_down_seconds
        case Hours(), Hours():
            found = wide.minutes() <= narrow.minutes()
        case Approvals(), Approvals():
            found = all(wide.required(tier.from_) >= tier.k for tier in narrow.tiers)
        case LimitPerTransaction(), LimitPerTransaction():
            found = wide.maximum <= narrow.maximum
        case LimitPerDay(), LimitPerTransaction():
            found = wide.maximum <= narrow.maximum
        case LimitPerDay(), LimitPerDay():
            found = wide.maximum <= narrow.maximum and (narrow.per_recipient or not wide.per_recipient)
        case _:
            found = False
    return found


def _scope(rule: Rule) -> Scope:
    if isinstance(rule, LimitPerTransaction | LimitPerDay):
        return Scope(purposes=rule.purposes, chains=rule.chains, currencies=(rule.currency,))
    return rule


def _check_names(rule: Rule, genesis: Genesis, *, file: str, field: str) -> None:
    scope = _scope(rule)
    for chain_id in scope.chains:
        if genesis.chain(chain_id) is None:
            known = ", ".join(str(chain.id) for chain in genesis.chains)
            raise PolicyRefused(file, f"{field}.chains", f"expected chains of the genesis ({known}), got {chain_id}")
    for currency in scope.currencies:
        if currency not in genesis.currencies:
            known = ", ".join(sorted(genesis.currencies))
            raise PolicyRefused(
                file, f"{field}.currency", f"expected currencies of the genesis ({known}), got {currency}"
            )
    cells = ((chain.id, token.currency) for chain in genesis.chains for token in chain.tokens)
    if not any(scope.about((scope.purposes or PURPOSES)[0], *cell) for cell in cells):
        raise PolicyRefused(file, field, "expected a currency that the genesis has on one of the rule's chains")


def _check_satisfiable(rule: Approvals, genesis: Genesis, *, file: str, field: str) -> None:
    for purpose in rule.purposes or PURPOSES:
        able = _able(genesis, purpose)
        if able == 0 and purpose == "fee_payout" and not rule.purposes:
            continue  # nobody may pay out fees by a genesis from before; a rule that names it needs somebody who does
        if rule.tiers[-1].k > able:
            raise PolicyRefused(
                file, f"{field}.tiers", f"expected at most {able} approvals, so many persons have the power {purpose!r}"
            )


def _able(genesis: Genesis, purpose: Purpose) -> int:
    power = power_for(purpose)
    return sum(1 for each in genesis.approvers if each.revoked_at is None and power in each.powers)
