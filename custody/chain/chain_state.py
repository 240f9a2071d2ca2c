"""Where the watcher stands on each chain, and what keeps a whole chain from going on: pause, quorum, silence (L13)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from custody.chain.block_time import BLOCKS_MOST, BlockTime, MinedAt, block_time
from custody.chain.nodes import quorum_of
from custody.settings.chains import DEVELOPMENT_CHAINS

SILENT_AFTER: Final = timedelta(seconds=60)
"""The watcher writes each chain's cursor at least every 5 s; twelve missed are no hiccup."""

LAG_BLOCKS: Final = 2
LAG_SECONDS: Final = 10
"""Nodes hear of a block seconds apart: an agreed head that follows this close is moving, and no quorum is missing."""

CHAINS_LIMIT: Final = 32  # as many as a chains file may name
NODES_LIMIT: Final = 8 * CHAINS_LIMIT


@dataclass(frozen=True, slots=True)
class NodeState:
    """A configured node as the watcher last judged it; ``url`` without what may be a key."""

    place: int
    url: str
    state: str
    reason: str | None
    head_number: int | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What keeps a chain, or one transfer on it, from going on. ``since`` None: nobody wrote down when it began."""

    code: Literal["paused", "quorum", "watcher", "given_up", "depth", "judgement"]
    what: str
    since: datetime | None
    unblocks: str


@dataclass(frozen=True, slots=True)
class ChainState:
    """One chain at one moment of the database. ``head_number`` None: the watcher has seen no block of it yet."""

    chain_id: int
    read_at: datetime
    head_number: int | None
    agreed_number: int | None
    seen_at: datetime | None
    paused_reason: str | None
    paused_at: datetime | None
    nodes: tuple[NodeState, ...]
    pace: BlockTime
    waiting_reason: str | None = None
    """Why the watcher does not go on by itself, in its own words."""
    waiting_since: datetime | None = None

    @property
    def quorum(self) -> int:
        """How many nodes must show the same hash (L13)."""
        return quorum_of(len(self.nodes), is_development=self.chain_id in DEVELOPMENT_CHAINS)

    @property
    def top(self) -> int | None:
        """H of L13, what depth is counted from: the newest block that a quorum agrees on."""
        if self.agreed_number is None and self.quorum == 1:
            return self.head_number
        return self.agreed_number

    @property
    def healthy(self) -> int:
        return sum(node.state == "healthy" for node in self.nodes)

    @property
    def not_healthy(self) -> tuple[NodeState, ...]:
        return tuple(node for node in self.nodes if node.state != "healthy")

    @property
    def hindrance(self) -> Hindrance | None:
        """Why nothing on this chain is judged now, the weightiest first; None while it goes on."""
        if self.paused_reason is not None:
            what = f"chain {self.chain_id} is paused: {self.paused_reason}"
            return Hindrance("paused", what, self.paused_at, "an operator")
        if self.head_number is None or self.seen_at is None:
            what = f"no block of chain {self.chain_id} was seen yet"
            return Hindrance("watcher", what, None, "the watcher: fleet status")
        if self.waiting_reason is not None:
            return self._quorum(self.waiting_reason.removeprefix("quorum: "), self.waiting_since)
        return self._below_quorum() or self._silence()

    def _below_quorum(self) -> Hindrance | None:
        aside = sorted(node.since for node in self.nodes if node.state == "aside")
        left = len(self.nodes) - len(aside)
        if self.nodes and left < self.quorum:
            # Quorum was lost with the node whose leaving made them too few; there is no such moment if it never stood.
            lost = len(self.nodes) - self.quorum
            return self._quorum(
                f"{left} of {len(self.nodes)} nodes of chain {self.chain_id} are not put aside, {self.quorum} must agree",
                aside[lost] if lost >= 0 else None,
            )
        if self.top is None:
            return self._quorum(f"the nodes of chain {self.chain_id} have agreed on no block yet", None)
        behind = max(0, (self.head_number or 0) - self.top)
        if behind > LAG_BLOCKS and behind * self.pace.seconds > LAG_SECONDS:
            return self._quorum(
                f"the nodes of chain {self.chain_id} agree up to block {self.top}, {behind} behind the newest", None
            )
        return None

    def _quorum(self, what: str, since: datetime | None) -> Hindrance:
        nodes = "node that shows" if self.quorum == 1 else "nodes that show"
        return Hindrance("quorum", f"quorum: {what}", since, f"{self.quorum} {nodes} the same blocks")

    def _silence(self) -> Hindrance | None:
        if self.seen_at is None or self.read_at - self.seen_at <= SILENT_AFTER:
            return None
        what = f"nothing was heard of chain {self.chain_id}: its nodes are away, or the watcher is"
        return Hindrance("watcher", what, self.seen_at, "the nodes or the watcher: fleet status")


_STATES: Final = text(
    """
    WITH known AS (
        SELECT unnest(CAST(:ids AS bigint[])) AS chain_id
        UNION SELECT chain_id FROM fleet.chain_cursors WHERE CAST(:ids AS bigint[]) IS NULL
        UNION SELECT chain_id FROM fleet.chain_nodes WHERE CAST(:ids AS bigint[]) IS NULL
        UNION SELECT chain_id FROM fleet.chain_facts WHERE live AND judged_at IS NULL AND CAST(:ids AS bigint[]) IS NULL)
    SELECT k.chain_id, statement_timestamp() AS read_at, c.head_number, c.agreed_number, c.seen_at, c.paused_reason,
        c.paused_at, c.waiting_reason, c.waiting_since, oldest.number AS oldest_number, oldest.mined_at AS oldest_at,
        newest.number AS newest_number, newest.mined_at AS newest_at
    FROM known k
    LEFT JOIN fleet.chain_cursors c ON c.chain_id = k.chain_id
    LEFT JOIN LATERAL (
        SELECT b.number, b.mined_at FROM fleet.chain_blocks b
        WHERE b.chain_id = k.chain_id ORDER BY b.number DESC LIMIT 1) newest ON true
    LEFT JOIN LATERAL (
        SELECT b.number, b.mined_at FROM fleet.chain_blocks b
        WHERE b.chain_id = k.chain_id AND b.number >= newest.number - :most ORDER BY b.number LIMIT 1) oldest ON true
    ORDER BY k.chain_id LIMIT :limit
    """
)

_NODES: Final = text(
    """
    SELECT chain_id, place, url, state, reason, head_number, since FROM fleet.chain_nodes
    WHERE CAST(:ids AS bigint[]) IS NULL OR chain_id = ANY(CAST(:ids AS bigint[]))
    ORDER BY chain_id, place LIMIT :limit
    """
)


def chain_states(connection: Connection, chain_ids: Sequence[int] | None = None) -> dict[int, ChainState]:
    """The chains of ``chain_ids`` by id, by default each that the watcher or a waiting transfer names.

    Two queries whatever the number of chains. Raises UnknownChain.
    """
    ids = None if chain_ids is None else list(chain_ids)
    nodes: dict[int, list[NodeState]] = {}
    for row in connection.execute(_NODES, {"ids": ids, "limit": NODES_LIMIT}):
        nodes.setdefault(row.chain_id, []).append(
            NodeState(row.place, row.url, row.state, row.reason, row.head_number, row.since)
        )
    rows = connection.execute(_STATES, {"ids": ids, "most": BLOCKS_MOST, "limit": CHAINS_LIMIT})
    return {row.chain_id: _state(row, tuple(nodes.get(row.chain_id, ()))) for row in rows}


def _state(row: Any, nodes: tuple[NodeState, ...]) -> ChainState:
    oldest = None if row.oldest_number is None else MinedAt(row.oldest_number, row.oldest_at)
    newest = None if row.newest_number is None else MinedAt(row.newest_number, row.newest_at)
    return ChainState(
        chain_id=row.chain_id,
        read_at=row.read_at,
        head_number=row.head_number,
        agreed_number=row.agreed_number,
        seen_at=row.seen_at,
        paused_reason=row.paused_reason,
        paused_at=row.paused_at,
        nodes=nodes,
        pace=block_time(row.chain_id, oldest, newest),
        waiting_reason=row.waiting_reason,
        waiting_since=row.waiting_since,
    )
