"""Cutting a domain over: proposed by one person, signed by two, executed while nothing stands against it (R10).

What may be done is held by the database (custody/store/sql/cutovers.sql); this module names it. Each direction takes two
persons: whoever chooses which store is believed chooses which disputes are seen.
"""

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger.adjustments import action_refusal, read_hash, require_label, require_reason
from custody.settings.environment import Store

KIND: Final = "cutover"


def propose_cutover(connection: Connection, domain: str, to: Store, *, reason: str, by: str) -> UUID:
    """Propose that ``domain`` is read from ``to``. Nothing changes yet.

    Raises ActionRefused with everything that stands against it, ValueError for a reason or label that is none.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_cutover(:domain, :to, :reason, :by)"),
            {"domain": domain, "to": to, "reason": reason, "by": by},
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def execute_cutover(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> int:
    """Cut over as another person than who proposed it, once two have signed; returns the cutover's number.

    ``agreed_hash``: hex, as shown. Raises ActionRefused, also when something stands against it by now; the transaction
    must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        return connection.execute(
            text("SELECT fleet.execute_cutover(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
