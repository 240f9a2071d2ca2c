"""Break-glass for an operator: proposing one, seeing where each stands, vetoing it (R15).

What may be done is held by the database (custody/store/sql/break_glass.sql) and by custody.policy.break_glass.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger.adjustments import action_refusal, require_label, require_reason
from custody.policy.break_glass import DELAY

LISTED_MAXIMUM: Final = 20  # months of them, if ever there are


@dataclass(frozen=True, slots=True)
class GlassState:
    """One as it stands. ``maximum`` in whole tokens; ``stands`` in words, with what it waits for."""

    id: UUID
    chain_id: int
    token: str
    maximum: Decimal
    reason: str
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    signed_by: tuple[str, ...]
    is_over: bool
    stands: str


_LIST: Final = text(
    """
    SELECT a.id, a.chain_id, a.parameters ->> 'token' AS token, (a.parameters ->> 'maximum')::numeric AS maximum,
        a.reason, a.proposed_by, a.proposed_at, (a.parameters ->> 'expires_at')::timestamptz AS expires_at,
        a.state, a.ended_by, a.ended_at, fleet.persons_who_signed(a.id, a.parameter_hash) AS signed_by,
        (SELECT p.received_at FROM fleet.approvals p
         WHERE p.subject_kind = 'operator_action' AND p.subject_id = a.id AND p.digest = a.parameter_hash
           AND p.state = 'accepted' ORDER BY p.received_at, p.id OFFSET 1 LIMIT 1) AS signed_at,
        (SELECT min(w.acknowledged_at) FROM fleet.alarms w
         WHERE w.kind = 'break_glass' AND w.subject_kind = 'operator_action' AND w.subject_id = a.id::text
           AND w.acknowledged_by IS NULL) AS heard_at
    FROM fleet.operator_actions a WHERE a.kind = 'break_glass' ORDER BY a.proposed_at DESC, a.id DESC LIMIT :limit
    """
)


def propose_break_glass(
    connection: Connection, chain_id: int, token: str, *, minutes: int, reason: str, by: str
) -> UUID:
    """Propose that for ``minutes`` one approver fewer is enough for releases of a token. Nothing changes yet.

    ``token``: address or ``native``. Raises ActionRefused, also for a second one in 24 hours; ValueError for a reason or
    label that is none.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_break_glass(:chain, :token, :minutes, :reason, :by)"),
            {"chain": chain_id, "token": token, "minutes": minutes, "reason": reason, "by": by},
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def veto_break_glass(connection: Connection, action_id: UUID, *, by: str) -> None:
    """End one, at any time, as any one guard. Raises ActionRefused if there is none to end, ValueError."""
    require_label(by)
    try:
        connection.execute(text("SELECT fleet.veto_break_glass(:id, :by)"), {"id": action_id, "by": by})
    except DBAPIError as error:
        raise action_refusal(error) from error


def break_glass_states(connection: Connection) -> list[GlassState]:
    """The newest LISTED_MAXIMUM, newest first. Signatures are as they were accepted; releases verify them anew."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    found: list[GlassState] = []
    for row in connection.execute(_LIST, {"limit": LISTED_MAXIMUM}):
        is_over = row.state != "proposed" or row.expires_at <= now
        opens_at = None if row.signed_at is None or row.heard_at is None else max(row.signed_at + DELAY, row.heard_at)
        if row.state != "proposed":
            stands = f"vetoed by {row.ended_by} at {row.ended_at:%H:%M:%S} UTC"
        elif is_over:
            stands = "over" if opens_at is not None and opens_at < row.expires_at else "over; it was never open"
        elif row.signed_at is None:
            who = ", ".join(row.signed_by) or "nobody"
            stands = f"waits for two persons' signatures ({who} signed): fleet signer approve"
        elif opens_at is None:
            stands = "waits for the alarms' receiver to acknowledge its alarm: ALARM_WEBHOOK_URL, fleet alarms"
        elif opens_at > now:
            stands = f"opens at {opens_at:%H:%M:%S} UTC unless somebody vetoes it"
        else:
            stands = f"open since {opens_at:%H:%M:%S} UTC, until {row.expires_at:%H:%M} UTC"
        found.append(
            GlassState(
                row.id,
                row.chain_id,
                row.token,
                row.maximum,
                row.reason,
                row.proposed_by,
                row.proposed_at,
                row.expires_at,
                tuple(row.signed_by),
                is_over,
                stands,
            )
        )
    return found
