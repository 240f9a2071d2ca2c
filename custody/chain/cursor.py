"""Where each chain stands as the watcher last saw it, and whether the fleet may act on it."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.blocks import BlockHeader
from custody.chain.depth import floor
from custody.chain.looks import QUEUE

SEEN_EVERY_SECONDS: Final = 5  # a head that stands still is written again this often, no more
WINDOW_MINIMUM_BLOCKS: Final = 256
WINDOW_FLOORS: Final = 4


@dataclass(frozen=True, slots=True)
class Cursor:
    """The newest block the watcher saw; ``paused_reason`` is set while people must decide (L5, L14)."""

    head_number: int
    head_hash: str
    paused_reason: str | None


def read_cursor(connection: Connection, chain_id: int) -> Cursor | None:
    """The chain's cursor, None before the watcher first saw a block."""
    row = connection.execute(
        text("SELECT head_number, head_hash, paused_reason FROM fleet.chain_cursors WHERE chain_id = :id"),
        {"id": chain_id},
    ).one_or_none()
    return None if row is None else Cursor(row.head_number, row.head_hash, row.paused_reason)


def move_cursor(connection: Connection, chain_id: int, head: BlockHeader) -> bool:
    """Write the head that a node shows. True if it is another block than before.

    A lower head is written too: a node that fell back leaves fewer confirmations, never more.
    """
    known = connection.execute(
        text("SELECT head_hash FROM fleet.chain_cursors WHERE chain_id = :id FOR UPDATE"), {"id": chain_id}
    ).scalar_one_or_none()
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_cursors AS c (chain_id, head_number, head_hash, head_timestamp)
            VALUES (:id, :number, :hash, to_timestamp(:timestamp))
            ON CONFLICT (chain_id) DO UPDATE
            SET head_number = excluded.head_number, head_hash = excluded.head_hash,
                head_timestamp = excluded.head_timestamp, seen_at = clock_timestamp()
            WHERE c.head_hash <> excluded.head_hash
                OR c.seen_at < clock_timestamp() - make_interval(secs => :every)
            """
        ),
        {
            "id": chain_id,
            "number": head.number,
            "hash": head.hash,
            "timestamp": head.timestamp,
            "every": SEEN_EVERY_SECONDS,
        },
    )
    return known != head.hash


def pause_chain(connection: Connection, chain_id: int, head: BlockHeader, reason: str) -> None:
    """Stop holds, sweeps and releases on a chain until an operator clears it. The first reason stays."""
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_cursors AS c
                (chain_id, head_number, head_hash, head_timestamp, paused_reason, paused_at)
            VALUES (:id, :number, :hash, to_timestamp(:timestamp), :reason, clock_timestamp())
            ON CONFLICT (chain_id) DO UPDATE
            SET paused_reason = coalesce(c.paused_reason, excluded.paused_reason),
                paused_at = coalesce(c.paused_at, excluded.paused_at)
            """
        ),
        {
            "id": chain_id,
            "number": head.number,
            "hash": head.hash,
            "timestamp": head.timestamp,
            "reason": reason,
        },
    )


@dataclass(frozen=True, slots=True)
class WatchedBlock:
    """A block that live facts came from, with their transactions."""

    number: int
    hash: str
    transactions: tuple[tuple[str, UUID | None], ...]
    """Each a hash and the payment it was for."""


def watched_blocks(connection: Connection, chain_id: int, head_number: int) -> list[WatchedBlock]:
    """The blocks of live inbound facts in the watched window (L14).

    The window is max(4 x the chain's floor, 256) blocks. A threshold raised above its floor widens what is
    watched before the hold, not after it.
    """
    rows = connection.execute(
        text(
            """
            SELECT block_number, block_hash, array_agg(transaction_hash ORDER BY id) AS hashes,
                array_agg(payment_id ORDER BY id) AS payments
            FROM fleet.chain_facts
            WHERE chain_id = :id AND direction = 'inbound' AND live
                AND log_index <> -2  -- these have no transaction to look at (native_reconciliation)
                AND (block_number > :lowest OR judged_at IS NULL)
            GROUP BY block_number, block_hash
            """
        ),
        {"id": chain_id, "lowest": head_number - watched_window(chain_id)},
    )
    return [
        WatchedBlock(row.block_number, row.block_hash, tuple(zip(row.hashes, row.payments, strict=True)))
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class BookedMove:
    """A sweep's or payout's transfer, booked when it was deep enough."""

    fact_id: UUID
    payment_id: UUID | None
    direction: str
    block_number: int
    block_hash: str
    transaction_hash: str


def booked_moves(connection: Connection, chain_id: int, head_number: int) -> list[BookedMove]:
    """The sweeps and payouts in the watched window (L14), but for those whose vanishing people have settled."""
    rows = connection.execute(
        text(
            """
            SELECT f.id, f.payment_id, f.direction, f.block_number, f.block_hash, f.transaction_hash
            FROM fleet.chain_facts f
            WHERE f.chain_id = :id AND f.direction <> 'inbound' AND f.live AND f.block_number > :lowest
                AND NOT EXISTS (SELECT FROM fleet.dead_work d WHERE d.queue = :queue
                    AND d.subject_kind = 'chain_fact' AND d.subject_id = f.id::text AND d.resolved_at IS NOT NULL)
            ORDER BY f.block_number, f.id
            """
        ),
        {"id": chain_id, "lowest": head_number - watched_window(chain_id), "queue": QUEUE},
    )
    return [BookedMove(*row) for row in rows]


def watched_window(chain_id: int) -> int:
    """How many blocks back a chain is watched (L14)."""
    return max(WINDOW_FLOORS * floor(chain_id), WINDOW_MINIMUM_BLOCKS)
