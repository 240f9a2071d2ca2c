"""A release instruction of the database as the request that a policy judges."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.policy.requests import HandOut, Request, policy_purpose
from custody.policy.rules import DAY_SECONDS

REQUESTED_BY: Final = "releases"
"""The process that drafts instructions; who asked for one is not kept yet."""

_INSTRUCTION: Final = text(
    """
    SELECT i.id, i.purpose, i.chain_id, i.treasury, i.token, i.recipient, i.amount_units, i.intent_hash, i.raw_units, (
        -- A group's payments have one seller, or it would be none.
        SELECT CASE i.purpose WHEN 'release' THEN p.seller_id WHEN 'refund' THEN p.buyer_id END
        FROM fleet.release_instructions m JOIN public.payments p ON p.id = m.payment_id
        WHERE m.id = i.id OR m.group_id = i.id ORDER BY m.id LIMIT 1) AS beneficiary
    FROM fleet.release_instructions i WHERE i.id = :id
    """
)
_HANDED_OUT: Final = text(
    """
    SELECT id, handed_out_at, purpose, chain_id, token, recipient, amount_units, intent_hash FROM fleet.release_instructions
    WHERE handed_out_at > CAST(:now AS timestamptz) - make_interval(secs => :seconds) AND state <> 'cancelled'
      AND group_id IS NULL  -- a group counts once, with all its payments
    ORDER BY handed_out_at, id
    """
)


def instruction_request(connection: Connection, instruction_id: UUID) -> Request:
    """The request of an instruction; its intent is the hash that approvers sign, its id before there is one.

    Raises LookupError when there is none, ValueError (pydantic's) for a row whose addresses are no addresses.
    """
    row = connection.execute(_INSTRUCTION, {"id": instruction_id}).one_or_none()
    if row is None:
        raise LookupError(f"there is no release instruction {instruction_id}")
    return Request.model_validate(
        {
            **_fields(row),
            "treasury": row.treasury,
            "requested_by": REQUESTED_BY,
            "raw_units": row.raw_units,
            "beneficiary": None if row.beneficiary is None else str(row.beneficiary),
        }
    )


def handed_out_of_a_day(connection: Connection, now: datetime) -> list[HandOut]:
    """Everything handed to a signer in the 24 hours before ``now``, oldest first, but for what a cancel ended (R1)."""
    rows = connection.execute(_HANDED_OUT, {"now": now, "seconds": DAY_SECONDS})
    return [HandOut.model_validate({**_fields(row), "at": row.handed_out_at}) for row in rows]


def _fields(row: Any) -> dict[str, Any]:
    return {
        "intent": str(row.id) if row.intent_hash is None else bytes(row.intent_hash).hex(),
        "purpose": policy_purpose(row.purpose),
        "chain_id": row.chain_id,
        "token": row.token,
        "recipient": row.recipient,
        "amount_units": int(row.amount_units),
    }
