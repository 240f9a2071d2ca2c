"""What transfers wait for before they are held: depth at the threshold that binds now, and what blocks it (L13).

Reads only Postgres. Explain shows one payment's transfers by it, ``fleet confirmations`` those of every payment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.assets import to_amount
from custody.chain.block_time import until_deep
from custody.chain.chain_state import ChainState, Hindrance, chain_states
from custody.chain.depth import confirmations, floor
from custody.payments.judging import Threshold, binding_thresholds

TRANSFERS_MAXIMUM: Final = 100  # more is dust that somebody sends to fill a screen


@dataclass(frozen=True, slots=True)
class WatchedChain:
    """Where a chain stands and the threshold that binds on it now."""

    state: ChainState
    threshold: Threshold

    @property
    def threshold_source(self) -> str:
        """Where the threshold comes from: the newest row of config_setting_history, or the chain's floor."""
        least = floor(self.state.chain_id)
        if self.threshold.history_id is None:
            return "the chain's floor, no history row"
        if self.threshold.blocks > least:
            return f"history row {self.threshold.history_id}"
        return f"the chain's floor, history row {self.threshold.history_id} asks for no more"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one transfer waits for. ``amount`` in whole tokens; depths in blocks, counted from the agreed head."""

    payment_id: UUID
    chain: WatchedChain
    token: str
    symbol: str
    amount: Decimal
    transaction_hash: str
    block_number: int
    confirmations: int
    seen_at: datetime
    given_up: Hindrance | None

    @property
    def chain_id(self) -> int:
        return self.chain.state.chain_id

    @property
    def threshold(self) -> Threshold:
        return self.chain.threshold

    @property
    def paused_reason(self) -> str | None:
        return self.chain.state.paused_reason

    @property
    def blocks_missing(self) -> int:
        return max(0, self.threshold.blocks - self.confirmations)

    @property
    def more_blocks(self) -> str:
        """The missing blocks in words."""
        return f"{self.blocks_missing} more block{'' if self.blocks_missing == 1 else 's'}"

    @property
    def eta_seconds(self) -> Fraction | None:
        """Until it is deep enough, 0 when it is. None while something else than depth blocks it: no promise then."""
        if self.given_up is not None or self.chain.state.hindrance is not None:
            return None
        return until_deep(self.confirmations, self.threshold.blocks, self.chain.state.pace)

    @property
    def blocked(self) -> Hindrance:
        """What it waits for first, since when, and what unblocks it."""
        hindrance = self.chain.state.hindrance
        if hindrance is not None and hindrance.code == "paused":
            return hindrance
        if self.given_up is not None:
            return self.given_up
        if hindrance is not None:
            return hindrance
        if self.blocks_missing:
            return Hindrance("depth", "depth", self.seen_at, self.more_blocks)
        return Hindrance("judgement", "deep enough, not judged yet", self.seen_at, "the next judgement")


@dataclass(frozen=True, slots=True)
class WaitingList:
    """The transfers nearest to their threshold, and how many wait in all, those left out included."""

    transfers: list[Waiting]
    total: int


_TRANSFERS: Final = """
SELECT f.payment_id, f.chain_id, f.token, t.symbol, t.decimals, f.amount_units, f.transaction_hash, f.block_number,
    f.created_at, d.reason, d.unblocks, d.created_at AS given_up_at, count(*) OVER () AS total
FROM fleet.chain_facts f
JOIN fleet.tokens t ON t.chain_id = f.chain_id AND t.token = f.token
JOIN unnest(CAST(:chains AS bigint[]), CAST(:tops AS bigint[]), CAST(:thresholds AS bigint[]),
    CAST(:paces AS numeric[]), CAST(:moving AS boolean[])) AS c (chain_id, top, threshold, pace, moving)
    ON c.chain_id = f.chain_id
LEFT JOIN fleet.dead_work d ON d.queue = 'confirmations' AND d.subject_kind = 'payment'
    AND d.subject_id = f.payment_id::text AND d.resolved_at IS NULL
CROSS JOIN LATERAL (
    SELECT greatest(0, c.threshold - greatest(0, coalesce(c.top, 0) - f.block_number + 1)) AS missing) m
WHERE f.live AND f.judged_at IS NULL AND f.direction = 'inbound' AND f.payment_id IS NOT NULL
"""


def watched_chains(connection: Connection, chain_ids: Sequence[int] | None = None) -> dict[int, WatchedChain]:
    """The chains by id, ``chain_ids`` None: all; three queries whatever their number.

    Raises UnknownChain, and ValueError or SettingRefused for a threshold row that is no number of blocks.
    """
    states = chain_states(connection, chain_ids)
    thresholds = binding_thresholds(connection, list(states))
    return {chain_id: WatchedChain(state, thresholds[chain_id]) for chain_id, state in states.items()}


def waiting(connection: Connection, payment_id: UUID, head: int | None = None) -> list[Waiting]:
    """The payment's transfers that are not judged yet, oldest first, at most TRANSFERS_MAXIMUM.

    ``head``: the number to count from, by default the newest block that a quorum agrees on (L13).
    """
    chains = watched_chains(connection, _chains_of(connection, payment_id))
    rows = _read(
        connection,
        chains,
        "AND f.payment_id = :payment ORDER BY f.block_number, f.log_index LIMIT :limit",
        payment=payment_id,
        limit=TRANSFERS_MAXIMUM,
    )
    return [_waiting(row, chains[row.chain_id], head) for row in rows]


def nearest(connection: Connection, chains: Mapping[int, WatchedChain], limit: int) -> WaitingList:
    """Up to ``limit`` transfers on these chains: soonest first, those that cannot say when last. One query."""
    rows = _read(
        connection,
        chains,
        "ORDER BY NOT c.moving OR d.id IS NOT NULL, m.missing * c.pace, m.missing, f.created_at, f.id LIMIT :limit",
        limit=limit,
    )
    return WaitingList(
        [_waiting(row, chains[row.chain_id], None) for row in rows],
        rows[0].total if rows else 0,
    )


def _chains_of(connection: Connection, payment_id: UUID) -> list[int]:
    return list(
        connection.execute(
            text("SELECT DISTINCT chain_id FROM fleet.chain_facts WHERE payment_id = :id AND live"), {"id": payment_id}
        ).scalars()
    )


def _read(
    connection: Connection, chains: Mapping[int, WatchedChain], condition: str, **parameters: object
) -> Sequence[Any]:
    each = list(chains.values())
    return connection.execute(
        text(_TRANSFERS + condition),
        {
            "chains": list(chains),
            "tops": [chain.state.top for chain in each],
            "thresholds": [chain.threshold.blocks for chain in each],
            # Only orders the rows: what is shown is computed from the exact pace.
            "paces": [_rounded(chain.state.pace.seconds) for chain in each],
            "moving": [chain.state.hindrance is None for chain in each],
            **parameters,
        },
    ).all()


def _rounded(seconds: Fraction) -> Decimal:
    return Decimal(round(seconds * 1_000_000)).scaleb(-6)


def _waiting(row: Any, chain: WatchedChain, head: int | None) -> Waiting:
    top = chain.state.top if head is None else head
    return Waiting(
        payment_id=row.payment_id,
        chain=chain,
        token=row.token,
        symbol=row.symbol,
        amount=to_amount(int(row.amount_units), row.decimals),
        transaction_hash=row.transaction_hash,
        block_number=row.block_number,
        confirmations=0 if top is None else confirmations(top, row.block_number),
        seen_at=row.created_at,
        given_up=None if row.given_up_at is None else Hindrance("given_up", row.reason, row.given_up_at, row.unblocks),
    )
