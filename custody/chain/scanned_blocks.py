"""The blocks that the watcher has scanned: their hashes, which show where a chain was replaced (L14)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from custody.chain.blocks import BlockHeader


@dataclass(frozen=True, slots=True)
class ScannedHash:
    """A scanned block's place and identity."""

    number: int
    hash: str


def store(connection: Connection, chain_id: int, headers: Sequence[BlockHeader], *, agreed: bool) -> None:
    """Write scanned blocks; a height that was scanned before has this block now. ``agreed``: a quorum shows them."""
    connection.execute(
        text(
            """
            INSERT INTO fleet.chain_blocks (chain_id, number, hash, parent_hash, mined_at, agreed)
            SELECT :chain_id, b.number, b.hash, b.parent_hash, to_timestamp(b.timestamp), :agreed
            FROM unnest(CAST(:numbers AS bigint[]), CAST(:hashes AS text[]), CAST(:parents AS text[]),
                        CAST(:timestamps AS bigint[])) AS b (number, hash, parent_hash, timestamp)
            ON CONFLICT (chain_id, number) DO UPDATE SET hash = excluded.hash, parent_hash = excluded.parent_hash,
                mined_at = excluded.mined_at, agreed = excluded.agreed
            """
        ),
        {
            "chain_id": chain_id,
            "agreed": agreed,
            "numbers": [header.number for header in headers],
            "hashes": [header.hash for header in headers],
            "parents": [header.parent_hash for header in headers],
            "timestamps": [header.timestamp for header in headers],
        },
    )


def newest_below(connection: Connection, chain_id: int, number: int, limit: int) -> list[ScannedHash]:
    """Up to ``limit`` scanned blocks at or below a height, newest first."""
    rows = connection.execute(
        text(
            "SELECT number, hash FROM fleet.chain_blocks WHERE chain_id = :id AND number <= :number "
            "ORDER BY number DESC LIMIT :limit"
        ),
        {"id": chain_id, "number": number, "limit": limit},
    )
    return [ScannedHash(row.number, row.hash) for row in rows]


def oldest(connection: Connection, chain_id: int) -> ScannedHash | None:
    """The oldest scanned block that is kept."""
    row = connection.execute(
        text("SELECT number, hash FROM fleet.chain_blocks WHERE chain_id = :id ORDER BY number LIMIT 1"),
        {"id": chain_id},
    ).one_or_none()
    return None if row is None else ScannedHash(row.number, row.hash)


def forget(connection: Connection, chain_id: int, *, above: int | None = None, below: int | None = None) -> None:
    """Drop blocks that left the chain, or that left the watched window."""
    connection.execute(
        text("DELETE FROM fleet.chain_blocks WHERE chain_id = :id AND (number > :above OR number < :below)"),
        {"id": chain_id, "above": above, "below": below},
    )


def not_agreed(connection: Connection, chain_id: int, blocks: Mapping[int, str]) -> list[int]:
    """Which of these blocks (number: hash) a quorum of nodes has not shown to the watcher: other, unknown or lone ones.

    Blocks below the kept window count as agreed: their depth was judged long ago.
    """
    return list(
        connection.execute(
            text(
                """
                SELECT w.number FROM unnest(CAST(:numbers AS bigint[]), CAST(:hashes AS text[])) AS w (number, hash)
                LEFT JOIN fleet.chain_blocks b ON b.chain_id = :id AND b.number = w.number
                WHERE (b.hash = w.hash AND b.agreed) IS NOT TRUE
                  AND w.number >= (SELECT min(number) FROM fleet.chain_blocks WHERE chain_id = :id)
                ORDER BY w.number
                """
            ),
            {"id": chain_id, "numbers": list(blocks), "hashes": list(blocks.values())},
        ).scalars()
    )
