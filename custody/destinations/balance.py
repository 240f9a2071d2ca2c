"""What ``derived_destinations.balance`` means, for everybody who changes what lies at an address."""

from uuid import UUID

from sqlalchemy import Connection, text

from custody.store.outbox import mirror


def show_balance(connection: Connection, destination_id: UUID) -> None:
    """Write what the books say lies at the address, in the smallest unit of the asset expected there last.

    Called after the entries of the same transaction. Other assets at the address have other decimals and are not in
    this number. An address that was swept and received again is active again.
    """
    connection.execute(
        text(
            """
            UPDATE public.derived_destinations d
            SET balance = booked.units, updated_at = clock_timestamp(),
                status = CASE WHEN d.status = 'swept' AND booked.units > 0 THEN 'active' ELSE d.status END
            FROM (
                SELECT coalesce(sum(b.destination), 0) * power(10::numeric, max(t.decimals)) AS units
                FROM (SELECT chain_id, token FROM fleet.payment_routes WHERE destination_id = :id
                      ORDER BY created_at DESC, payment_id DESC LIMIT 1) AS newest
                JOIN fleet.tokens t ON t.chain_id = newest.chain_id AND t.token = newest.token
                LEFT JOIN (fleet.payment_routes r JOIN fleet.ledger_balances b ON b.book_id = r.payment_id)
                    ON r.destination_id = :id AND b.chain_id = newest.chain_id AND b.token = newest.token
                HAVING count(*) > 0
            ) AS booked
            WHERE d.id = :id
            """
        ),
        {"id": destination_id},
    )
    mirror(connection, "deriveddestinations", destination_id)
