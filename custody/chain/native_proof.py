"""The proof of what a native proxy's event says: the recipient's balance rose by it over that block (L8).

The event is a contract's word. Balances are read outside the database's transaction (L15), and only for events that
name an issued address and are not booked yet: two balances each, all in one batched request.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine, text

from custody.chain import facts
from custody.chain.assets import NATIVE
from custody.chain.blocks import BlockHeader
from custody.chain.facts import Arrival
from custody.chain.native import BALANCE, Unproved, proxy_events
from custody.chain.receipts import Receipt
from custody.settings.chains import Chain
from custody.store.engine import forbid_inside_transaction, transaction


class BalancesAt(Protocol):
    """Who says what accounts held after blocks: one node, or several of which only the common word counts."""

    def balances_at(self, places: Sequence[tuple[str, str]], /) -> dict[tuple[str, str], int]: ...


Rises = Mapping[str, int]
"""By address: its native coin after a block less that after the block before, wei; may be negative."""


def read_rises(
    engine: Engine, reader: BalancesAt, chain: Chain, receipts: Iterable[Receipt], headers: Mapping[int, BlockHeader]
) -> dict[str, Rises]:
    """Return, by transaction, the rises that its proxy events need as proof.

    ``receipts`` of canonical blocks, ``headers`` theirs. Raises ChainUnavailable, also where a node keeps no state so
    old; MalformedLog is left for detect() to raise, which reads the same events.
    """
    if chain.native_fee_proxy is None:
        return {}
    named = {receipt: facts.native_events_to(chain, receipt) for receipt in receipts}
    named = {receipt: addresses for receipt, addresses in named.items() if addresses}
    if not named:
        return {}
    with transaction(engine) as connection:
        issued = facts.issued_of(connection, chain.id, set().union(*named.values()))
        booked = _booked(connection, chain.id, [receipt.transaction_hash for receipt in named])
    wanted = {
        (receipt, address)
        for receipt, addresses in named.items()
        for address in addresses & issued
        if (receipt.transaction_hash, receipt.block_hash, address) not in booked
    }
    if not wanted:
        return {}
    forbid_inside_transaction("reading balances")
    places = {
        (address, block_hash)
        for receipt, address in wanted
        for block_hash in (receipt.block_hash, headers[receipt.block_number].parent_hash)
    }
    wei = reader.balances_at(sorted(places))
    rises: dict[str, dict[str, int]] = defaultdict(dict)
    for receipt, address in wanted:
        before = headers[receipt.block_number].parent_hash
        rises[receipt.transaction_hash][address] = wei[address, receipt.block_hash] - wei[address, before]
    return dict(rises)


def require_proof(
    connection: Connection,
    chain: Chain,
    receipt: Receipt,
    new: Sequence[Arrival],
    found: Iterable[Arrival],
    rises: Rises,
) -> None:
    """Raise Unproved unless the rises cover what the transaction's proxy events among ``new`` say.

    Of a rise is taken what other native facts of the same block brought to the address; what our own transactions took
    from it in that block is given back. ``found``: all that this transaction brought.
    """
    spoken = {ordinal for ordinal, _ in proxy_events(receipt, facts.native_proxies(chain))}
    places = {
        arrival.inbound.transfer.recipient: arrival.destination
        for arrival in new
        if arrival.token == NATIVE and arrival.inbound.tx_ordinal in spoken
    }
    brought: dict[str, int] = defaultdict(int)
    for arrival in found:
        if arrival.token == NATIVE:
            brought[arrival.inbound.transfer.recipient] += arrival.inbound.transfer.amount
    for address, destination in places.items():
        if address not in rises:
            raise Unproved(f"the balance of {address} was not read around block {receipt.block_number}")
        elsewhere = _elsewhere(connection, chain.id, receipt, destination)
        if rises[address] - elsewhere < brought[address]:
            raise Unproved(
                f"transaction {receipt.transaction_hash} says that {brought[address]} wei came to {address}, but in block "
                f"{receipt.block_number} its balance rose by {rises[address]} wei, {elsewhere} of it by other transactions"
            )


def _elsewhere(connection: Connection, chain_id: int, receipt: Receipt, destination: facts.Destination) -> int:
    """What the books know that other transactions of the block brought to the address, less what ours took, wei."""
    return int(
        connection.execute(
            text(
                """
                SELECT coalesce((
                    SELECT sum(f.amount_units) FROM fleet.chain_facts f
                    WHERE f.chain_id = :chain_id AND f.block_hash = :block AND f.destination_id = :destination
                        AND f.token = :native AND f.direction = 'inbound' AND f.live
                        AND f.transaction_hash <> :hash AND f.log_index <> :balance), 0)
                - coalesce((
                    SELECT sum(t.fee_wei + CASE WHEN t.succeeded THEN t.value_wei ELSE 0 END)
                    FROM fleet.chain_transactions t
                    WHERE t.chain_id = :chain_id AND t.sender = :address AND t.block_hash = :block), 0)
                """
            ),
            {
                "chain_id": chain_id,
                "block": receipt.block_hash,
                "destination": destination.id,
                "native": NATIVE,
                "hash": receipt.transaction_hash,
                "balance": BALANCE,
                "address": destination.address,
            },
        ).scalar_one()
    )


def _booked(connection: Connection, chain_id: int, hashes: Sequence[str]) -> set[tuple[str, str, str]]:
    """(transaction, block, recipient) of live native facts of these transactions: they were proved once."""
    rows = connection.execute(
        text(
            """
            SELECT transaction_hash, block_hash, recipient FROM fleet.chain_facts
            WHERE chain_id = :chain_id AND transaction_hash = ANY(:hashes) AND token = :native
                AND direction = 'inbound' AND live
            """
        ),
        {"chain_id": chain_id, "hashes": list(hashes), "native": NATIVE},
    )
    return {(row.transaction_hash, row.block_hash, row.recipient) for row in rows}
