"""What a payment waits for on its chains: a pause, a quorum, a silent watcher, depth (L13; design §2, rule 8)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.block_time import about
from custody.chain.depth import FLOORS
from custody.payments.waiting import Waiting, WatchedChain, watched_chains


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing the payment waits for."""

    what: str
    since: datetime | None
    unblocks: str


def chains_of(connection: Connection, payment_id: UUID, chain_id: int | None) -> list[WatchedChain]:
    """The payment's chain and those its coins came by (L10)."""
    ids = connection.execute(
        text(
            "SELECT CAST(:chain AS bigint) AS chain_id UNION "
            "SELECT f.chain_id FROM fleet.chain_facts f WHERE f.payment_id = :id AND f.live"
        ),
        {"chain": chain_id, "id": payment_id},
    ).scalars()
    # Other providers' payments are on chains that the fleet does not watch.
    return list(watched_chains(connection, [each for each in ids if each in FLOORS]).values())


def waits_for_chain(chains: Iterable[WatchedChain], *, looking: bool) -> Iterator[Wait]:
    """A pause or a lost quorum stops every step (L13); a silent watcher what must still be ``looking`` seen."""
    for chain in chains:
        hindrance = chain.state.hindrance
        if hindrance is None or (hindrance.code == "watcher" and not looking):
            continue
        yield Wait(hindrance.what, hindrance.since, hindrance.unblocks)
        if hindrance.code == "quorum":
            for node in chain.state.not_healthy:
                yield Wait(
                    f"node {node.place + 1} of chain {chain.state.chain_id} is {node.state}: {node.reason or node.url}",
                    node.since,
                    "the node, or another in its place in CHAINS_FILE",
                )


def waits_for_depth(depths: Iterable[Waiting]) -> Iterator[Wait]:
    for transfer in depths:
        seconds = transfer.eta_seconds
        unblocks = transfer.more_blocks if transfer.blocks_missing else "the next judgement"
        yield Wait(
            f"depth: {transfer.confirmations} of {transfer.threshold.blocks} confirmations of block {transfer.block_number}",
            transfer.seen_at,
            f"{unblocks}, {about(seconds)}" if seconds else unblocks,
        )
