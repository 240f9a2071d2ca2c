"""What ``derived_destinations.balance`` means, for everybody who changes what lies at an address."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Connection, text

from custody.store.outbox import mirror_all


def show_balance(connection: Connection, destination_id: UUID) -> None:
    """``show_balances`` of one address."""
    show_balances(connection, [destination_id])


def show_balances(connection: Connection, destination_ids: Collection[UUID]) -> None:
    """Write what the books say lies at the addresses, each in the smallest unit of the asset expected there last.

    Called after the entries of the same transaction. Other assets at an address have other decimals and are not in
    this number. An address that was swept and received again is active again.
    """
    if not destination_ids:
        return
    connection.execute(
        text(
            """
            UPDATE public.derived_destinations d
            SET balance = booked.units, updated_at = clock_timestamp(),
                status = CASE WHEN d.status = 'swept' AND booked.units > 0 THEN 'active' ELSE d.status END
            FROM unnest(CAST(:ids AS uuid[])) AS w (id) CROSS JOIN LATERAL (
                SELECT coalesce(sum(b.destination), 0) * power(10::numeric, max(t.decimals)) AS units
                FROM (SELECT chain_id, token FROM fleet.payment_routes WHERE destination_id = w.id
                      ORDER BY created_at DESC, payment_id DESC LIMIT 1) AS newest
                JOIN fleet.tokens t ON t.chain_id = newest.chain_id AND t.token = newest.token
                LEFT JOIN (fleet.payment_routes r JOIN fleet.ledger_balances b ON b.book_id = r.payment_id)
                    ON r.destination_id = w.id AND b.chain_id = newest.chain_id AND b.token = newest.token
                HAVING count(*) > 0
            ) AS booked
            WHERE d.id = w.id
            """
        ),
        {"ids": list(destination_ids)},
    )
    mirror_all(connection, "deriveddestinations", sorted(destination_ids))
