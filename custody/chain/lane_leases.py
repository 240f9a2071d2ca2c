"""Who may send from a gas payer's lane: one sender at a time, and none while its key seems to be used elsewhere.

A lease ends by itself when its holder dies. The fence rises with each taker, and everything that is written of a lane
asks for it first: a sender that was thought dead and wakes up writes nothing. What it may still send are stored bytes.
"""

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, text

from custody.ledger.adjustments import require_label, require_reason

SUBJECT_KIND: Final = "nonce_lane"  # of the dead work that says why a lane is frozen
LEASE_SECONDS: Final = 20  # how long a killed sender's lane rests; each write of its holder begins them anew


class LaneLost(Exception):
    """Another sender has the lane by now; nothing of this transaction is kept."""


@dataclass(frozen=True, slots=True)
class LaneLease:
    """The right to send from a lane."""

    chain_id: int
    address: str
    fence: int


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as it stands in the database, its row locked. Nonces; ``suspect_since`` is a block."""

    next_nonce: int
    foreign_below: int
    suspect_since: int | None
    frozen_reason: str | None


def take_lease(connection: Connection, chain_id: int, address: str) -> LaneLease | None:
    """Take the lane for LEASE_SECONDS; None while another sender has it, or where no lane was opened."""
    fence = connection.execute(
        text(
            """
            UPDATE fleet.nonce_lanes
            SET fence = fence + 1, lease_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE chain_id = :chain AND address = :address
              AND (lease_until IS NULL OR lease_until <= clock_timestamp())
            RETURNING fence
            """
        ),
        {"chain": chain_id, "address": address, "seconds": LEASE_SECONDS},
    ).scalar_one_or_none()
    return None if fence is None else LaneLease(chain_id, address, fence)


def hold(connection: Connection, lease: LaneLease) -> LaneView:
    """Lock the lane under its lease, which begins anew. Raises LaneLost."""
    row = connection.execute(
        text(
            """
            UPDATE fleet.nonce_lanes SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
            WHERE chain_id = :chain AND address = :address AND fence = :fence
            RETURNING next_nonce, foreign_below, suspect_since, frozen_reason
            """
        ),
        {"chain": lease.chain_id, "address": lease.address, "fence": lease.fence, "seconds": LEASE_SECONDS},
    ).one_or_none()
    if row is None:
        raise LaneLost(f"the lane of {lease.address} on chain {lease.chain_id} is another sender's by now")
    return LaneView(row.next_nonce, row.foreign_below, row.suspect_since, row.frozen_reason)


def give_back(connection: Connection, lease: LaneLease) -> None:
    """End the lease, so that the next sender need not wait for its end."""
    connection.execute(
        text(
            "UPDATE fleet.nonce_lanes SET lease_until = NULL "
            "WHERE chain_id = :chain AND address = :address AND fence = :fence"
        ),
        {"chain": lease.chain_id, "address": lease.address, "fence": lease.fence},
    )


def note_chain(
    connection: Connection,
    lease: LaneLease,
    *,
    nonce: int,
    balance_wei: int,
    block: int,
    floor_wei: int,
    suspect_since: int | None,
) -> None:
    """What the chain shows of the lane's address, at this block."""
    connection.execute(
        text(
            """
            UPDATE fleet.nonce_lanes SET chain_nonce = :nonce, balance_wei = :balance, seen_block = :block,
                seen_at = clock_timestamp(), floor_wei = :floor, suspect_since = :suspect
            WHERE chain_id = :chain AND address = :address AND fence = :fence
            """
        ),
        {
            "chain": lease.chain_id,
            "address": lease.address,
            "fence": lease.fence,
            "nonce": nonce,
            "balance": balance_wei,
            "block": block,
            "floor": floor_wei,
            "suspect": suspect_since,
        },
    )


def raise_to(connection: Connection, lease: LaneLease, nonce: int) -> None:
    """The chain's count is a floor: nonces below it are spent."""
    connection.execute(
        text(
            "UPDATE fleet.nonce_lanes SET next_nonce = greatest(next_nonce, :nonce) "
            "WHERE chain_id = :chain AND address = :address AND fence = :fence"
        ),
        {"chain": lease.chain_id, "address": lease.address, "fence": lease.fence, "nonce": nonce},
    )


def freeze(connection: Connection, lease: LaneLease, reason: str) -> None:
    """Send nothing more from the lane until people have looked. The first reason stands."""
    connection.execute(
        text(
            "UPDATE fleet.nonce_lanes SET frozen_reason = coalesce(frozen_reason, :reason), "
            "frozen_at = coalesce(frozen_at, clock_timestamp()) "
            "WHERE chain_id = :chain AND address = :address AND fence = :fence"
        ),
        {"chain": lease.chain_id, "address": lease.address, "fence": lease.fence, "reason": reason[:500]},
    )


def thaw(connection: Connection, chain_id: int, address: str, *, by: str, reason: str) -> int:
    """Let a frozen lane go on, as an operator: what the chain had spent by then is known to be somebody else's.

    Returns the nonce below which that is so. Raises LookupError for a lane that is not frozen, ValueError for a label or
    reason that is none.
    """
    require_reason(reason)
    require_label(by)
    below = connection.execute(
        text(
            """
            UPDATE fleet.nonce_lanes SET frozen_reason = NULL, frozen_at = NULL, suspect_since = NULL,
                foreign_below = greatest(foreign_below, chain_nonce)
            WHERE chain_id = :chain AND address = :address AND frozen_reason IS NOT NULL RETURNING foreign_below
            """
        ),
        {"chain": chain_id, "address": address},
    ).scalar_one_or_none()
    if below is None:
        raise LookupError(f"the lane of {address} on chain {chain_id} is not frozen")
    connection.execute(
        text(
            "UPDATE fleet.dead_work SET resolved_at = clock_timestamp(), resolved_by = :by "
            "WHERE subject_kind = :kind AND subject_id = :subject AND resolved_at IS NULL"
        ),
        {"by": f"{by}: {reason}"[:500], "kind": SUBJECT_KIND, "subject": f"{chain_id}:{address}"},
    )
    return below


def fill_gaps(connection: Connection, lease: LaneLease, first: int, view: LaneView) -> int:
    """Give each nonce from ``first`` below the lane's next one that has no row an intent to be cancelled; how many.

    Such a gap comes with a restored database, whose lanes are raised above what it remembers (R22).
    """
    if view.next_nonce <= first:
        return 0
    missing = connection.execute(
        text(
            """
            SELECT n FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
            WHERE NOT EXISTS (SELECT FROM fleet.chain_transactions t
                WHERE t.chain_id = :chain AND t.sender = :address AND t.nonce = n) ORDER BY n
            """
        ),
        {"first": first, "last": view.next_nonce - 1, "chain": lease.chain_id, "address": lease.address},
    ).scalars()
    rows = [
        {
            "chain": lease.chain_id,
            "address": lease.address,
            "nonce": nonce,
            "subject": uuid4(),
            "reason": "gap: nobody remembers an intent of this nonce",
        }
        for nonce in missing
    ]
    if rows:
        connection.execute(
            text(
                """
                INSERT INTO fleet.chain_transactions
                    (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei, cancel_reason)
                VALUES (:chain, :address, :nonce, 'cancel', :subject, :address, 0, :reason)
                """
            ),
            rows,
        )
    return len(rows)
