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
WINDOW_THRESHOLDS: Final = 4


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the watcher stands. ``agreed_number``: the newest scanned block that a quorum agrees on (L13), None until
    there was one; ``paused_reason`` is set while people must decide (L5, L14).
    """

    head_number: int
    head_hash: str
    paused_reason: str | None
    agreed_number: int | None = None
    finalized_number: int | None = None


def read_cursor(connection: Connection, chain_id: int) -> Cursor | None:
    """The chain's cursor, None before the watcher first saw a block."""
    row = connection.execute(
        text(
            "SELECT head_number, head_hash, paused_reason, agreed_number, finalized_number FROM fleet.chain_cursors "
            "WHERE chain_id = :id"
        ),
        {"id": chain_id},
    ).one_or_none()
    return None if row is None else Cursor(*row)


def move_cursor(
    connection: Connection,
    chain_id: int,
    head: BlockHeader,
    *,
    agreed_number: int | None,
    finalized_number: int | None = None,
    treasury_balance: int | None = None,
    treasury_nonce: int | None = None,
) -> None:
    """Write the newest scanned block. It may be lower than before: after a reorganisation it is the common ancestor.

    ``treasury_balance`` in wei and ``treasury_nonce`` keep their values where None.
    """
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_cursors AS c (chain_id, head_number, head_hash, head_timestamp, agreed_number,
                finalized_number, treasury_balance_wei, treasury_nonce)
            VALUES (:id, :number, :hash, to_timestamp(:timestamp), CAST(:agreed AS bigint), CAST(:finalized AS bigint),
                CAST(:balance AS numeric), CAST(:nonce AS bigint))
            ON CONFLICT (chain_id) DO UPDATE
            SET head_number = excluded.head_number, head_hash = excluded.head_hash,
                head_timestamp = excluded.head_timestamp, seen_at = clock_timestamp(),
                agreed_number = excluded.agreed_number, finalized_number = excluded.finalized_number,
                treasury_balance_wei = coalesce(excluded.treasury_balance_wei, c.treasury_balance_wei),
                treasury_nonce = coalesce(excluded.treasury_nonce, c.treasury_nonce)
            """
        ),
        {
            "id": chain_id,
            "number": head.number,
            "hash": head.hash,
            "timestamp": head.timestamp,
            "agreed": agreed_number,
            "finalized": finalized_number,
            "balance": treasury_balance,
            "nonce": treasury_nonce,
        },
    )


def say_seen(connection: Connection, chain_id: int, waiting: str | None) -> None:
    """The watcher lives: ``waiting`` is why it does not go on by itself, None when it does. Needs a cursor."""
    connection.execute(
        text(
            """
            UPDATE fleet.chain_cursors SET seen_at = clock_timestamp(), waiting_reason = :reason,
                waiting_since = CASE WHEN CAST(:reason AS text) IS NULL THEN NULL
                    ELSE coalesce(waiting_since, clock_timestamp()) END
            WHERE chain_id = :id AND (waiting_reason IS DISTINCT FROM :reason
                OR seen_at < clock_timestamp() - make_interval(secs => :every))
            """
        ),
        {"id": chain_id, "reason": waiting, "every": SEEN_EVERY_SECONDS},
    )


def pause_chain(connection: Connection, chain_id: int, head: BlockHeader, reason: str) -> None:
    """Stop holds, sweeps and releases on a chain until two persons let it go on (R10). The first reason stays."""
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp)
            VALUES (:id, :number, :hash, to_timestamp(:timestamp)) ON CONFLICT (chain_id) DO NOTHING
            """
        ),
        {"id": chain_id, "number": head.number, "hash": head.hash, "timestamp": head.timestamp},
    )
    connection.execute(text("SELECT fleet.pause_chain(:id, :reason)"), {"id": chain_id, "reason": reason})


def facts_above(
    connection: Connection, chain_id: int, number: int, *, is_judged: bool = True
) -> dict[str, UUID | None]:
    """The transactions of live inbound facts in blocks above a height, each with a payment it was for.

    ``is_judged`` False leaves out those that were deep enough.
    """
    rows = connection.execute(
        text(
            """
            SELECT DISTINCT ON (transaction_hash) transaction_hash, payment_id FROM fleet.chain_facts
            WHERE chain_id = :id AND direction = 'inbound' AND live AND block_number > :number
                AND log_index <> -2  -- these have no transaction to look at (native_reconciliation)
                AND (judged_at IS NULL OR :judged)
            ORDER BY transaction_hash, tx_ordinal
            """
        ),
        {"id": chain_id, "number": number, "judged": is_judged},
    )
    return {row.transaction_hash: row.payment_id for row in rows}


@dataclass(frozen=True, slots=True)
class BookedMove:
    """A sweep's or payout's transfer, booked when it was deep enough."""

    fact_id: UUID
    payment_id: UUID | None
    direction: str
    block_number: int
    block_hash: str
    transaction_hash: str


def booked_moves(connection: Connection, chain_id: int, above: int) -> list[BookedMove]:
    """The sweeps and payouts in blocks above a height, but for those whose vanishing people have settled.

    What left the treasury without us has no payment and no instruction; it is taken back where it was found
    (custody/chain/outflows.py).
    """
    rows = connection.execute(
        text(
            """
            SELECT f.id, f.payment_id, f.direction, f.block_number, f.block_hash, f.transaction_hash
            FROM fleet.chain_facts f
            WHERE f.chain_id = :id AND f.live AND f.block_number > :above
                AND (f.direction = 'sweep' OR f.direction = 'outbound' AND (f.payment_id IS NOT NULL OR EXISTS (
                    SELECT FROM public.funds_ledger_entries e WHERE e.fact_id = f.id AND e.reason = 'rotation')))
                AND NOT EXISTS (SELECT FROM fleet.dead_work d WHERE d.queue = :queue
                    AND d.subject_kind = 'chain_fact' AND d.subject_id = f.id::text AND d.resolved_at IS NOT NULL)
            ORDER BY f.block_number, f.id
            """
        ),
        {"id": chain_id, "above": above, "queue": QUEUE},
    )
    return [BookedMove(*row) for row in rows]


def watched_window(chain_id: int, threshold: int | None = None) -> int:
    """How many blocks back a chain is watched (L14): max(4 x the threshold that binds, or the chain's floor, 256)."""
    return max(WINDOW_THRESHOLDS * (floor(chain_id) if threshold is None else threshold), WINDOW_MINIMUM_BLOCKS)
