"""Sanctioned senders (R13): their coins wait in suspense and are never released; only more than dust stops an address.

Lists are loaded by operators (``sanctions_lists``); the database locks what came from whom they name
(custody/destinations/sql/sanctions.sql). A judgement keeps the list it was made by.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from custody.payments.late_money import is_dust
from custody.payments.standing import Route
from custody.store.outbox import mirror

log = structlog.get_logger(__name__)

_QUARANTINE: Final = text(
    """
    UPDATE public.derived_destinations d
    SET status = 'quarantined', quarantine_reason = :reason, updated_at = clock_timestamp()
    WHERE d.id = :id AND d.status <> 'quarantined' RETURNING d.address
    """
)


@dataclass(frozen=True, slots=True)
class Sanctions:
    """The newest list, None before one was loaded, and which of the senders asked about are named on the chain."""

    version: int | None
    hash: str | None
    senders: frozenset[str]

    @property
    def evidence(self) -> dict[str, object]:
        """What a judgement keeps of it."""
        return {} if self.version is None else {"sanctions_version": self.version, "sanctions_hash": self.hash}


def sanctions_on(connection: Connection, chain_id: int, senders: Collection[str]) -> Sanctions:
    """Which of the senders (checksummed) may not pay on the chain, by everything loaded until now."""
    newest = connection.execute(
        text("SELECT version, encode(hash, 'hex') AS hash FROM fleet.sanctions_lists ORDER BY version DESC LIMIT 1")
    ).one_or_none()
    if newest is None:
        return Sanctions(None, None, frozenset())
    named = connection.execute(
        text("SELECT * FROM fleet.sanctioned_among(:chain, :senders)"), {"chain": chain_id, "senders": sorted(senders)}
    )
    return Sanctions(newest.version, newest.hash, frozenset(named.scalars()))


def quarantine_sanctioned(
    connection: Connection,
    route: Route,
    destination_ids: Collection[UUID],
    *,
    token: str,
    amount: Decimal,
    senders: Sequence[str],
) -> None:
    """Mark the addresses that sanctioned coins came to, unless all that ever came to the payment is dust (R13).

    ``amount`` (whole tokens) is not in the books yet; what is there already counts with it, so that nobody comes in
    below the bound by halves. The caller holds the rows (L17). A mark that stands keeps its reason.
    """
    before = connection.execute(
        text("SELECT fleet.sanctioned_of(:book, :chain, :token)"),
        {"book": route.payment_id, "chain": route.chain_id, "token": token},
    ).scalar_one()
    total = before + amount
    reason = (
        f"sanctioned: {total.normalize():f} of {token} came for payment {route.payment_id} from {', '.join(senders)}"
    )
    if is_dust(token, total, route.expected):
        log.warning("sanctioned_dust_locked", payment_id=str(route.payment_id), reason=reason)
        return
    for destination_id in sorted(destination_ids):
        address = connection.execute(_QUARANTINE, {"id": destination_id, "reason": reason[:500]}).scalar_one_or_none()
        if address is not None:
            mirror(connection, "deriveddestinations", destination_id)
            log.warning("destination_quarantined", address=address, payment_id=str(route.payment_id), reason=reason)
