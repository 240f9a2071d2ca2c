"""What a payment's transfers wait for before they are held: depth, at the threshold that binds now (L13)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.depth import confirmations
from custody.payments.judging import Threshold, binding_threshold
from custody.settings.chains import DEVELOPMENT_CHAINS

TRANSFERS_MAXIMUM: Final = 100  # more is dust that somebody sends to fill a screen


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one transfer waits for. Depths in blocks; ``head_number`` None: no block of the chain seen yet.

    ``agreed``: how deep it is under the newest block that a quorum of nodes agrees on; never above ``confirmations``.
    ``nodes_aside``: the chain's nodes that the watcher does not count on now, and why; None if there are none.
    """

    transaction_hash: str
    block_number: int
    head_number: int | None
    confirmations: int
    agreed: int
    nodes_aside: str | None
    threshold: Threshold
    paused_reason: str | None
    seen_at: datetime

    @property
    def blocks_missing(self) -> int:
        return max(0, self.threshold.blocks - self.confirmations)

    @property
    def waits_for_quorum(self) -> bool:
        """Deep enough for the node that is ahead, but not for a quorum (L13)."""
        return self.blocks_missing == 0 and self.agreed < self.threshold.blocks


def waiting(connection: Connection, payment_id: UUID, head: int | None = None) -> list[Waiting]:
    """The payment's transfers that are not judged yet, oldest first, and how deep they are.

    ``head``: the newest block's number, by default the one the watcher last wrote for the fact's chain.
    """
    rows = connection.execute(
        text(
            """
            SELECT f.chain_id, f.transaction_hash, f.block_number, c.head_number, c.agreed_number, c.paused_reason,
                f.created_at, (
                    SELECT string_agg(n.url || ' ' || n.state || coalesce(': ' || n.reason, ''), '; ' ORDER BY n.place)
                    FROM fleet.chain_nodes n WHERE n.chain_id = f.chain_id AND n.state <> 'healthy') AS nodes_aside
            FROM fleet.chain_facts f LEFT JOIN fleet.chain_cursors c ON c.chain_id = f.chain_id
            WHERE f.payment_id = :id AND f.live AND f.judged_at IS NULL AND f.direction = 'inbound'
            ORDER BY f.block_number, f.log_index LIMIT :limit
            """
        ),
        {"id": payment_id, "limit": TRANSFERS_MAXIMUM},
    ).all()
    found: list[Waiting] = []
    for row in rows:
        top = row.head_number if head is None else head
        # Before the nodes first agreed, a development chain's head is taken for it: it may have one node only.
        alone = row.chain_id in DEVELOPMENT_CHAINS and row.agreed_number is None
        agreed = top if alone or head is not None else row.agreed_number
        found.append(
            Waiting(
                transaction_hash=row.transaction_hash,
                block_number=row.block_number,
                head_number=top,
                confirmations=0 if top is None else confirmations(top, row.block_number),
                agreed=0 if top is None or agreed is None else confirmations(min(top, agreed), row.block_number),
                nodes_aside=row.nodes_aside,
                threshold=binding_threshold(connection, row.chain_id),
                paused_reason=row.paused_reason,
                seen_at=row.created_at,
            )
        )
    return found
