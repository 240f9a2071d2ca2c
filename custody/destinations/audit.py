"""Every destination comes from its deposit account; one that does not is quarantined and said aloud (R20).

Whoever can write rows could otherwise show buyers an address of their own. Role: fleet_housekeeping, each minute.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import sentry_sdk
import structlog
from sqlalchemy import Connection, Engine, text

from custody.destinations.accounts import DepositAccount, deposit_accounts
from custody.destinations.derivation import DerivationError
from custody.destinations.issuing import COLLECTION
from custody.store.engine import transaction
from custody.store.outbox import mirror

log = structlog.get_logger(__name__)

AUDIT_LIMIT: Final = 1_000  # about a quarter of a second; the step is repeated until nothing is new

# The audited values are compared, not a time: a row that was changed afterwards is new again.
_NEW = text(
    """
    SELECT d.id, d.chain_id, d.address, d.derivation_path, d.derivation_index, d.deposit_account_id, d.status::text AS status
    FROM public.derived_destinations d
    LEFT JOIN fleet.destination_audits a ON a.destination_id = d.id AND a.address = d.address
        AND a.derivation_path = d.derivation_path AND a.derivation_index = d.derivation_index
        AND a.deposit_account_id IS NOT DISTINCT FROM d.deposit_account_id
    WHERE a.destination_id IS NULL ORDER BY d.created_at, d.id LIMIT :limit FOR UPDATE OF d SKIP LOCKED
    """
)
_NOTE = text(
    """
    INSERT INTO fleet.destination_audits (destination_id, address, derivation_path, derivation_index,
        deposit_account_id, is_derived)
    VALUES (:id, :address, :path, :index, :account, :is_derived)
    ON CONFLICT (destination_id) DO UPDATE SET address = excluded.address, derivation_path = excluded.derivation_path,
        derivation_index = excluded.derivation_index, deposit_account_id = excluded.deposit_account_id,
        is_derived = excluded.is_derived, audited_at = clock_timestamp()
    """
)


def why_not_derived(chain_id: int, address: str, path: str, index: int, account: DepositAccount | None) -> str | None:
    """Why an address is none of the account's at that index, in words; None if it is. Pure."""
    if account is None:
        return "no deposit account is known that it comes from"
    try:
        expected, expected_path = account.address(chain_id, index), account.path_of(index)
    except DerivationError as error:
        return f"its account cannot derive it: {error}"
    if address.lower() != expected.lower():  # how it is spelled proves nothing
        return f"its account's address at index {index} is {expected}"
    if path != expected_path:
        return f"its path is {path}, expected {expected_path}"
    return None


def audit_destinations(engine: Engine, *, limit: int = AUDIT_LIMIT) -> int:
    """Audit up to ``limit`` destinations that are new or were changed, in one transaction; returns how many."""
    with transaction(engine) as connection:
        rows = connection.execute(_NEW, {"limit": limit}).all()
        accounts = deposit_accounts(connection) if rows else {}
        found = [(row, _verdict(row, accounts)) for row in rows]
        for row, why in found:
            connection.execute(
                _NOTE,
                {
                    "id": row.id,
                    "address": row.address,
                    "path": row.derivation_path,
                    "index": row.derivation_index,
                    "account": row.deposit_account_id,
                    "is_derived": why is None,
                },
            )
            if why is not None:
                _quarantine(connection, row, why)
    for row, why in found:
        if why is not None:
            log.error("destination_not_derived", destination=str(row.id), address=row.address, reason=why)
            sentry_sdk.capture_message("a deposit address does not come from its account", level="error")
    return len(rows)


def _verdict(row: Any, accounts: Mapping[UUID, DepositAccount]) -> str | None:
    place = (row.chain_id, row.address, row.derivation_path, row.derivation_index)
    if row.deposit_account_id is not None:
        return why_not_derived(*place, accounts.get(row.deposit_account_id))
    # Issued before the fleet wrote accounts down: any account that is known may be its own.
    if any(why_not_derived(*place, each) is None for each in accounts.values()):
        return None
    return why_not_derived(*place, None)


def _quarantine(connection: Connection, row: Any, why: str) -> None:
    connection.execute(
        text(
            "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = :reason, "
            "updated_at = clock_timestamp() WHERE id = :id"
        ),
        {
            "id": row.id,
            "reason": f"not_derived: {why}; whoever wrote the row may hold the key: pay nothing there (R20)",
        },
    )
    mirror(connection, COLLECTION, row.id)
