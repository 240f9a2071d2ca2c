"""Chains as an operator sees them, and their pauses: any one guard sets one, two persons lift it (L14, R5, R10).

What may be done is held by the database (custody/store/sql/chain_pauses.sql); this module names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.ledger.adjustments import action_refusal, read_hash, require_label, require_reason


@dataclass(frozen=True, slots=True)
class NodeState:
    """One configured node as the watcher last judged it; ``url`` without what may be a key."""

    place: int
    url: str
    state: str
    reason: str | None
    head_number: int | None
    since: datetime


@dataclass(frozen=True, slots=True)
class ChainState:
    """One chain as the watcher last wrote it.

    ``agreed_number``: the newest block that a quorum of nodes agrees on (L13), None before there was one.
    ``head_age_seconds``: since the head's own time; ``seen_age_seconds``: since the watcher last wrote.
    """

    chain_id: int
    head_number: int
    head_hash: str
    agreed_number: int | None
    head_age_seconds: int
    seen_age_seconds: int
    paused_reason: str | None
    paused_at: datetime | None
    nodes: Sequence[NodeState]

    @property
    def lag_blocks(self) -> int | None:
        """Blocks of the head that no quorum agrees on yet."""
        return None if self.agreed_number is None else max(0, self.head_number - self.agreed_number)


def chain_states(connection: Connection) -> list[ChainState]:
    """Every chain that a watcher has seen, by id."""
    nodes: dict[int, list[NodeState]] = {}
    for row in connection.execute(
        text(
            "SELECT chain_id, place, url, state, reason, head_number, since FROM fleet.chain_nodes "
            "ORDER BY chain_id, place"
        )
    ):
        nodes.setdefault(row.chain_id, []).append(
            NodeState(row.place, row.url, row.state, row.reason, row.head_number, row.since)
        )
    rows = connection.execute(
        text(
            """
            SELECT chain_id, head_number, head_hash, agreed_number, paused_reason, paused_at,
                CAST(extract(epoch FROM clock_timestamp() - head_timestamp) AS bigint) AS head_age,
                CAST(extract(epoch FROM clock_timestamp() - seen_at) AS bigint) AS seen_age
            FROM fleet.chain_cursors ORDER BY chain_id
            """
        )
    )
    return [
        ChainState(
            row.chain_id,
            row.head_number,
            row.head_hash,
            row.agreed_number,
            row.head_age,
            row.seen_age,
            row.paused_reason,
            row.paused_at,
            nodes.get(row.chain_id, []),
        )
        for row in rows
    ]


def pause(connection: Connection, chain_id: int, *, reason: str, by: str) -> bool:
    """Stop holds, sweeps and releases of a chain now. False if it was paused already: the first reason stands.

    Raises LookupError for a chain that no watcher has seen, ValueError for a reason or label that is none.
    """
    require_reason(reason)
    require_label(by)
    values = {"chain": chain_id, "reason": f"paused by {by}: {reason}"}
    if connection.execute(text("SELECT fleet.pause_chain(:chain, :reason)"), values).scalar_one():
        return True
    known = connection.execute(
        text("SELECT 1 FROM fleet.chain_cursors WHERE chain_id = :chain"), {"chain": chain_id}
    ).first()
    if known is None:
        raise LookupError(f"no watcher has seen chain {chain_id} yet: there is nothing to pause")
    return False


def propose_go_on(connection: Connection, chain_id: int, *, reason: str, by: str) -> UUID:
    """Propose that a paused chain goes on. Nothing changes yet.

    Bound to this very pause and to the dead work behind it. Raises ActionRefused for a chain that is not paused, ValueError for a reason or label that is none.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_go_on(:chain, :reason, :by)"), {"chain": chain_id, "reason": reason, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def go_on(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> int:
    """Lift the pause as another person than who proposed it, and resolve the work behind it; returns how many rows.

    ``agreed_hash``: hex, as shown. Raises ActionRefused, also when anything happened on the chain since the proposal;
    the transaction must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        return connection.execute(
            text("SELECT fleet.execute_go_on(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
