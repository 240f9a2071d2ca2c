"""Break-glasses of the database, verified each time they are asked for (R9, R15).

An action of kind ``break_glass`` stays ``proposed``: it is never executed, it is open or it is not. Withdrawing is the veto.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, text

from custody.policy.break_glass import APART, LIFETIME_MAXIMUM, BreakGlass
from custody.policy.genesis import Genesis
from custody.policy.operator_actions import ActionNotShowable, BreakGlassScope, SignableAction
from custody.policy.refusals import PolicyRefused
from custody.policy.signatures import signer_of
from custody.trezor.transaction import SignatureError

KIND: Final = "break_glass"
PERSONS: Final = 2
_LOOK_BACK: Final = APART + 2 * LIFETIME_MAXIMUM + timedelta(hours=24)
"""How old a proposal may be that still keeps another from opening, and a day for what was handed out under it."""

_FIND: Final = text(
    """
    SELECT a.id::text AS id, a.chain_id, a.parameters::text AS said, a.parameter_hash,
        CASE a.state WHEN 'withdrawn' THEN a.ended_at END AS vetoed_at,
        (SELECT min(w.acknowledged_at) FROM fleet.alarms w
         WHERE w.kind = 'break_glass' AND w.subject_kind = 'operator_action' AND w.subject_id = a.id::text
           AND w.acknowledged_by IS NULL) AS heard_at,
        (SELECT coalesce(sum(b.treasury), 0) FROM fleet.ledger_balances b
         WHERE b.chain_id = a.chain_id AND b.token = a.parameters ->> 'token') AS treasury
    FROM fleet.operator_actions a
    WHERE a.kind = 'break_glass' AND a.proposed_at > CAST(:now AS timestamptz) - CAST(:back AS interval)
    ORDER BY a.proposed_at, a.id
    """
)
_SIGNED: Final = text(
    """
    SELECT person, approver, signature, received_at FROM fleet.approvals
    WHERE subject_kind = 'operator_action' AND subject_id = CAST(:id AS uuid) AND digest = :digest AND state = 'accepted'
    ORDER BY received_at, id
    """
)


def read_break_glasses(connection: Connection, genesis: Genesis, now: datetime) -> list[BreakGlass]:
    """Every break-glass that two persons signed and that still matters at ``now``, oldest first. Writes nothing."""
    found: list[BreakGlass] = []
    for row in connection.execute(_FIND, {"now": now, "back": _LOOK_BACK}):
        action = SignableAction(row.id, KIND, row.chain_id, row.said)
        chain = genesis.chain(row.chain_id)
        try:
            scope, shown = action.break_glass_scope(), action.text(genesis.environment)
        except (ActionNotShowable, PolicyRefused):
            continue
        token = None if chain is None else chain.token(scope.token)
        signatures = connection.execute(_SIGNED, {"id": row.id, "digest": action.hash()}).all()
        signed_at = _second_person_at(signatures)
        if token is None or signed_at is None or bytes(row.parameter_hash) != action.hash():
            continue
        found.append(_as_glass(row, scope, token.decimals, signed_at, _holds(signatures, shown, genesis, now)))
    return found


def _as_glass(row: Any, scope: BreakGlassScope, decimals: int, signed_at: datetime, is_verified: bool) -> BreakGlass:
    return BreakGlass(
        id=row.id,
        chain_id=row.chain_id,
        token=scope.token,
        maximum_units=_units_below(scope.maximum, decimals),
        treasury_units=_units_below(row.treasury, decimals),
        proposed_at=scope.proposed_at,
        expires_at=scope.expires_at,
        signed_at=signed_at,
        is_verified=is_verified,
        alarm_heard_at=row.heard_at,
        vetoed_at=row.vetoed_at,
    )


def _second_person_at(signatures: Sequence[Any]) -> datetime | None:
    persons: set[str] = set()
    for each in signatures:
        persons.add(each.person)
        if len(persons) >= PERSONS:
            return each.received_at
    return None


def _holds(signatures: Sequence[Any], shown: str, genesis: Genesis, now: datetime) -> bool:
    """Whether two persons who may still sign have signed this text: verified anew, whatever a row says (R9)."""
    active = {each.address: each.person for each in genesis.active_approvers("policy", now)}
    persons: set[str] = set()
    for each in signatures:
        try:
            is_theirs = signer_of(shown, f"0x{bytes(each.signature).hex()}") == each.approver
        except SignatureError:
            is_theirs = False
        if is_theirs and active.get(each.approver) == each.person:
            persons.add(each.person)
    return len(persons) >= PERSONS


def _units_below(amount: Decimal, decimals: int) -> int:
    return int(amount.scaleb(decimals).to_integral_value(rounding="ROUND_FLOOR"))
