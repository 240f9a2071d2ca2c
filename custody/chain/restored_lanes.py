"""After a restore: every nonce lane is raised to what the chain and the signers' journals say, and never lowered (R22)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from custody.chain.nodes import ChainNodes

SignedNonces = Mapping[tuple[int, str], int]
"""The highest nonce that a device was asked to sign, by chain id and treasury."""


@dataclass(frozen=True, slots=True)
class RaisedLane:
    """One lane before and after. ``gap``: nonces that were signed somewhere and that no block has spent yet."""

    chain_id: int
    address: str
    kind: str
    before: int
    spent: int
    after: int

    @property
    def gap(self) -> range:
        return range(self.spent, self.after)


def counts_on_chain(nodes: Mapping[int, ChainNodes], lanes: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """What each chain says was spent by each lane's address. Raises ChainUnavailable. Not within a transaction."""
    return {(chain_id, address): nodes[chain_id].nonce(address) for chain_id, address in lanes if chain_id in nodes}


def lanes_of(connection: Connection) -> list[tuple[int, str]]:
    """Every lane, by chain id and address."""
    rows = connection.execute(text("SELECT chain_id, address FROM fleet.nonce_lanes ORDER BY chain_id, address"))
    return [(row.chain_id, row.address) for row in rows]


def raise_lanes(connection: Connection, spent: Mapping[tuple[int, str], int], signed: SignedNonces) -> list[RaisedLane]:
    """Raise each lane to the higher of what is spent and one above what was signed. Run as an administrator."""
    raised: list[RaisedLane] = []
    for (chain_id, address), count in sorted(spent.items()):
        floor = max(count, signed.get((chain_id, address), -1) + 1)
        row = connection.execute(
            text(
                """
                UPDATE fleet.nonce_lanes l SET next_nonce = greatest(l.next_nonce, :floor)
                FROM (SELECT next_nonce AS before FROM fleet.nonce_lanes WHERE chain_id = :chain AND address = :address
                      FOR UPDATE) o
                WHERE l.chain_id = :chain AND l.address = :address RETURNING l.kind, o.before, l.next_nonce
                """
            ),
            {"chain": chain_id, "address": address, "floor": floor},
        ).one()
        raised.append(RaisedLane(chain_id, address, row.kind, row.before, count, row.next_nonce))
    return raised
