"""What a break-glass would change in a simulation (R15): one that is planned, or those that the database knows of."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sqlalchemy import Connection

from custody.chain.assets import InvalidAmount, to_units
from custody.policy import Decision, PolicyRefused, Verified
from custody.policy.break_glass import DELAY, K_FLOOR, LIFETIME_MAXIMUM, SHARE, BreakGlass, once_a_day
from custody.policy.break_glass_actions import read_break_glasses
from custody.policy.lowered_k import RULE
from workers.cli.simulated_requests import read_request

PLANNED: Final = "planned"


def planned_glass(lines: Sequence[dict[str, Any]], verified: Verified, name: str, holds: str) -> BreakGlass:
    """One that opens at the first request's moment for its token, and is open as long as one may be.

    ``holds``: what the treasury has of the token, whole tokens; a tenth of it is the most that goes out. Raises PolicyRefused.
    """
    if not lines:
        raise PolicyRefused(name, "file", "expected at least one request, at whose moment the break-glass opens")
    request, opens = read_request(lines[0], verified, name, "line 1", intent="planned")
    chain = verified.genesis.genesis.chain(request.chain_id)
    token = None if chain is None else chain.token(request.token)
    if token is None:
        raise PolicyRefused(name, "line 1.token", f"chain {request.chain_id} or its token is not in the genesis")
    try:
        units = to_units(Decimal(holds), token.decimals)
    except (InvalidOperation, InvalidAmount) as error:
        said = error if isinstance(error, InvalidAmount) else "expected whole tokens, as 25000"
        raise PolicyRefused("--break-glass", "amount", str(said)) from None
    return BreakGlass(
        id=PLANNED,
        chain_id=request.chain_id,
        token=request.token,
        maximum_units=units // SHARE,
        treasury_units=units,
        proposed_at=opens - DELAY,
        expires_at=opens - DELAY + LIFETIME_MAXIMUM,
        signed_at=opens - DELAY,
        is_verified=True,
        alarm_heard_at=opens - DELAY,
    )


def known_glasses(connection: Connection, verified: Verified) -> list[BreakGlass]:
    """Those that two persons have signed, open or still to open, verified anew. The simulation changes nothing."""
    return read_break_glasses(connection, verified.genesis.genesis, datetime.now(UTC))


def glass_in_words(glass: BreakGlass, every: Sequence[BreakGlass]) -> str:
    """When one of ``every`` is open and for how many of the token's smallest units, or why it never is."""
    what = f"break-glass {glass.id} of {glass.token} on chain {glass.chain_id}"
    if glass.vetoed_at is not None:
        return f"{what}: vetoed at {_time(glass.vetoed_at)}"
    if not glass.is_verified:
        return f"{what}: two persons' signatures do not hold"
    if glass.opens_at is None:
        waits = "its alarm was not acknowledged outside" if glass.alarm_heard_at is None else "it ends before it opens"
        return f"{what}: does not open, {waits}"
    if glass not in once_a_day(every):
        return f"{what}: does not open, another one was open less than 24 hours before"
    least = min(glass.maximum_units, glass.treasury_units // SHARE)
    return f"{what}: open from {_time(glass.opens_at)} to {_time(glass.expires_at)} for at most {least} units"


def change_in_words(without: Decision, with_one: Decision) -> str:
    """What the break-glass changes in one decision, as a sentence that names both; or why it changes nothing."""
    if (without.outcome, without.approvals_required) != (with_one.outcome, with_one.approvals_required):
        return (
            f"with break-glass: {with_one.outcome.replace('_', ' ')} by {with_one.rule}: {with_one.sentence} "
            f"({with_one.approvals_required} in place of {without.approvals_required} persons)"
        )
    word = next((each for each in with_one.words if each.rule == RULE), None)
    if word is not None:
        why = word.sentence
    elif without.approvals_required <= K_FLOOR:
        why = f"{without.approvals_required} person(s) must approve, and it never falls below {K_FLOOR}"
    else:
        why = "none is open at that moment for a release or refund of this token"
    return f"break-glass changes nothing: {why}"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
