"""Deposit addresses as an operator sees them, and their quarantine: any one guard sets it, two persons lift it (R10, R13).

What may be done is held by the database (custody/destinations/sql/quarantine.sql); this module names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.destinations.issuing import COLLECTION
from custody.ledger.adjustments import action_refusal, read_hash, require_label, require_reason
from custody.store.outbox import mirror, ring

REASON_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class DestinationState:
    """One deposit address. ``balance_units``, ``swept_units``: smallest units of what is expected there (seed)."""

    id: UUID
    chain_id: int
    address: str
    status: str
    quarantine_reason: str | None
    balance_units: int
    sweep_count: int
    swept_units: int
    derivation_path: str
    account: str | None
    """Its deposit account's fingerprint."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Story:
    """What has become of one address: its payments with what each has there, its sweep jobs, newest first."""

    payments: Sequence[Any]
    jobs: Sequence[Any]
    audited_at: datetime | None
    is_derived: bool | None


_SELECT: Final = """
    SELECT d.id, d.chain_id, d.address, d.status::text AS status, d.quarantine_reason, d.balance, d.sweep_count,
        d.total_swept, d.derivation_path, a.xpub_fingerprint, d.created_at, d.updated_at
    FROM public.derived_destinations d LEFT JOIN fleet.deposit_accounts a ON a.id = d.deposit_account_id
"""


def destinations(
    connection: Connection, *, status: str | None = None, chain_id: int | None = None, limit: int
) -> list[DestinationState]:
    """Up to ``limit`` addresses, what changed last first."""
    rows = connection.execute(
        text(
            f"{_SELECT} WHERE (CAST(:status AS text) IS NULL OR d.status::text = :status) "
            "AND (CAST(:chain AS bigint) IS NULL OR d.chain_id = :chain) ORDER BY d.updated_at DESC, d.id LIMIT :limit"
        ),
        {"status": status, "chain": chain_id, "limit": limit},
    )
    return [_read(row) for row in rows]


def find_destination(connection: Connection, named: str) -> DestinationState:
    """One by its id or address. Raises LookupError for none, and for an address that several chains share."""
    rows = connection.execute(
        text(f"{_SELECT} WHERE d.id::text = lower(:named) OR lower(d.address) = lower(:named) LIMIT 2"),
        {"named": named},
    ).all()
    if len(rows) != 1:
        why = "name it by its id" if rows else "see: fleet destinations list"
        raise LookupError(f"{len(rows) or 'no'} deposit address(es) are called {named}: {why}")
    return _read(rows[0])


def story_of(connection: Connection, destination_id: UUID) -> Story:
    """What an operator looks at before letting an address go."""
    values = {"id": destination_id}
    payments = connection.execute(
        text(
            """
            SELECT r.payment_id, p.status::text AS status, p.escrow_state::text AS escrow_state, r.expected, t.symbol,
                coalesce(b.destination, 0) AS at_address, coalesce(b.suspense, 0) AS suspense,
                fleet.sanctioned_of(r.payment_id, r.chain_id, r.token) AS sanctioned
            FROM fleet.payment_routes r JOIN public.payments p ON p.id = r.payment_id
            JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
            LEFT JOIN fleet.ledger_balances b ON b.book_id = r.payment_id AND b.chain_id = r.chain_id AND b.token = r.token
            WHERE r.destination_id = :id ORDER BY r.created_at DESC LIMIT 50
            """
        ),
        values,
    ).all()
    jobs = connection.execute(
        text(
            "SELECT id, state, strategy, token, amount_units, reason, created_at FROM fleet.sweep_jobs "
            "WHERE destination_id = :id ORDER BY created_at DESC LIMIT 50"
        ),
        values,
    ).all()
    audit = connection.execute(
        text("SELECT audited_at, is_derived FROM fleet.destination_audits WHERE destination_id = :id"), values
    ).one_or_none()
    return Story(
        payments, jobs, None if audit is None else audit.audited_at, None if audit is None else audit.is_derived
    )


def quarantine(connection: Connection, destination_id: UUID, *, reason: str, by: str) -> bool:
    """Stop an address at once: no sweep is planned for it, none under way takes another step. Any one guard may.

    False if it was quarantined already: the first reason stands. Raises ActionRefused for an unknown one, ValueError.
    """
    require_reason(reason)
    require_label(by)
    values = {"id": destination_id, "reason": f"by {by}: {reason}"[:REASON_CHARACTERS]}
    try:
        is_new: bool = connection.execute(
            text("SELECT fleet.quarantine_destination(:id, :reason)"), values
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
    if is_new:
        mirror(connection, COLLECTION, destination_id)
    return is_new


def propose_release(connection: Connection, destination_id: UUID, *, reason: str, by: str) -> UUID:
    """Propose that a quarantined address is used again. Nothing changes yet; bound to this very quarantine.

    Raises ActionRefused for one that is not quarantined, or does not come from its account (R20), ValueError.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_readmission(:id, :reason, :by)"),
            {"id": destination_id, "reason": reason, "by": by},
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def release(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> UUID:
    """Lift the quarantine as another person than who proposed it, once two have signed; returns the destination.

    ``agreed_hash``: hex, as shown. Raises ActionRefused, also when anything changed since the proposal; the transaction
    must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        destination_id: UUID = connection.execute(
            text("SELECT fleet.execute_readmission(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
    mirror(connection, COLLECTION, destination_id)
    ring(connection, "sweeps")
    return destination_id


def _read(row: Any) -> DestinationState:
    return DestinationState(
        row.id,
        row.chain_id,
        row.address,
        row.status,
        row.quarantine_reason,
        int(row.balance),
        row.sweep_count,
        int(row.total_swept),
        row.derivation_path,
        row.xpub_fingerprint,
        row.created_at,
        row.updated_at,
    )
