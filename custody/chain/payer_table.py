"""Gas payers as an operator sees them: one row a lane, as its sender last saw it. Wei; nonces; seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class PayerRow:
    """``oldest_seconds``: age of the oldest transaction that no block holds, None without one. Never seen: None."""

    chain_id: int
    address: str
    balance_wei: int | None
    floor_wei: int | None
    next_nonce: int
    chain_nonce: int | None
    in_flight: int
    oldest_seconds: int | None
    seen_seconds: int | None
    frozen_reason: str | None

    @property
    def state(self) -> str:
        """``frozen``, ``unseen``, ``empty`` (below the floor) or ``ready``."""
        if self.frozen_reason is not None:
            return "frozen"
        if self.balance_wei is None or self.floor_wei is None:
            return "unseen"
        return "empty" if self.balance_wei < self.floor_wei else "ready"


def payer_rows(connection: Connection) -> Sequence[PayerRow]:
    """Every gas payer's lane, by chain and address."""
    rows = connection.execute(
        text(
            """
            SELECT l.chain_id, l.address, l.balance_wei, l.floor_wei, l.next_nonce, l.chain_nonce, l.frozen_reason,
                count(t.id) AS in_flight,
                CAST(extract(epoch FROM clock_timestamp() - min(t.created_at)) AS bigint) AS oldest_seconds,
                CAST(extract(epoch FROM clock_timestamp() - l.seen_at) AS bigint) AS seen_seconds
            FROM fleet.nonce_lanes l
            LEFT JOIN fleet.chain_transactions t ON t.chain_id = l.chain_id AND t.sender = l.address
                AND t.state IN ('intent', 'signed', 'broadcast') AND t.block_hash IS NULL
            WHERE l.kind = 'gas_payer' GROUP BY l.chain_id, l.address ORDER BY l.chain_id, l.address
            """
        )
    )
    return [
        PayerRow(
            chain_id=row.chain_id,
            address=row.address,
            balance_wei=None if row.balance_wei is None else int(row.balance_wei),
            floor_wei=None if row.floor_wei is None else int(row.floor_wei),
            next_nonce=row.next_nonce,
            chain_nonce=row.chain_nonce,
            in_flight=row.in_flight,
            oldest_seconds=row.oldest_seconds,
            seen_seconds=row.seen_seconds,
            frozen_reason=row.frozen_reason,
        )
        for row in rows
    ]
