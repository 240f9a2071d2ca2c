"""Requests written by hand, and the decisions of a policy about them in their order."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from custody.chain.assets import InvalidAmount, to_units
from custody.policy import (
    Approval,
    Decision,
    Genesis,
    HandOut,
    PolicyRefused,
    Request,
    Situation,
    Verified,
    judge,
)
from custody.policy.break_glass import BreakGlass

LINES_MAXIMUM: Final = 10_000  # a simulation of more requests is a program's work


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. Raises PolicyRefused."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyRefused(path.name, "file", f"cannot be read: {error}") from None
    if len(lines) > LINES_MAXIMUM:
        raise PolicyRefused(path.name, "file", f"expected at most {LINES_MAXIMUM} lines")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            said = json.loads(line, parse_float=Decimal)
        except json.JSONDecodeError as error:
            raise PolicyRefused(path.name, f"line {number}", f"expected JSON: {error.msg}") from None
        if not isinstance(said, dict):
            raise PolicyRefused(path.name, f"line {number}", "expected an object with a request's fields")
        found.append(said)
    return found


def replay(
    lines: Sequence[dict[str, Any]], verified: Verified, name: str, break_glasses: Sequence[BreakGlass] = ()
) -> list[Decision]:
    """Decide requests in their order; each allowed one counts as handed out for those behind it. ``break_glasses``: R15.

    Raises PolicyRefused naming ``name``, the line and the field.
    """
    handed_out: list[HandOut] = []
    decisions: list[Decision] = []
    for number, line in enumerate(lines, start=1):
        field = f"line {number}"
        request, now = read_request(line, verified, name, field, intent=f"simulated-{number}")
        approvals = [
            Approval(approver=_approver(each, verified.genesis.genesis, name, field), intent=request.intent)
            for each in line.get("approved") or []
        ]
        decision = judge(
            request,
            Situation(now, handed_out, approvals, break_glasses),
            genesis=verified.genesis.genesis,
            policy=verified.policy.policy,
            policy_hash=verified.policy.hash,
            book=verified.book,
        )
        decisions.append(decision)
        if decision.is_allowed:
            moved = request.model_dump(include={"intent", "purpose", "chain_id", "token", "recipient", "amount_units"})
            handed_out.append(HandOut.model_validate({**moved, "at": now}))
    return decisions


_FIELDS: Final = frozenset(
    ("purpose", "chain", "token", "to", "amount", "by", "beneficiary", "buyer_signed", "approved", "at")
)


def read_request(
    line: dict[str, Any], verified: Verified, name: str, field: str, *, intent: str
) -> tuple[Request, datetime]:
    """A line's request and its moment (UTC). Raises PolicyRefused naming ``name`` and the line's field."""
    if unknown := sorted(set(line) - _FIELDS):
        raise PolicyRefused(name, f"{field}.{unknown[0]}", f"expected one of {', '.join(sorted(_FIELDS))}")
    chain = verified.genesis.genesis.chain(line["chain"]) if isinstance(line.get("chain"), int) else None
    known = None if chain is None else chain.token(str(line.get("token", "native")))
    try:
        # A token that the genesis does not know is denied whatever the amount is.
        units = to_units(Decimal(str(line.get("amount"))), 18 if known is None else known.decimals)
    except (InvalidOperation, InvalidAmount) as error:
        said = error if isinstance(error, InvalidAmount) else "expected whole tokens, as 250.5"
        raise PolicyRefused(name, f"{field}.amount", str(said)) from None
    try:
        request = Request.model_validate(
            {
                "intent": intent,
                "purpose": line.get("purpose"),
                "chain_id": line.get("chain"),
                "token": line.get("token", "native"),
                "recipient": line.get("to"),
                "amount_units": units,
                "requested_by": line.get("by", "nobody"),
                "beneficiary": line.get("beneficiary"),
                "buyer_signed_recipient": line.get("buyer_signed", False),
            }
        )
        now = datetime.now(UTC) if line.get("at") is None else datetime.fromisoformat(str(line["at"]))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        raise PolicyRefused(name, f"{field}.{first['loc'][0]}", said) from None
    except ValueError:
        raise PolicyRefused(name, f"{field}.at", "expected a time as 2030-01-31T12:00:00Z") from None
    if now.tzinfo is None:
        raise PolicyRefused(name, f"{field}.at", "expected a time with its offset, as 2030-01-31T12:00:00Z")
    return request, now.astimezone(UTC)


def _approver(named: Any, genesis: Genesis, name: str, field: str) -> str:
    for each in genesis.approvers:
        if named in (each.person, each.address):
            return each.address
    raise PolicyRefused(name, f"{field}.approved", f"expected a person or an address of the genesis, got {named!r}")
