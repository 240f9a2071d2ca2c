"""Chain facts: Transfer logs of allow-listed tokens, and native coin, to addresses that the fleet issued (L1, L2, L12).

The chain's own coin has no Transfer log: what its facts are, `native` says (L8).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE, to_amount
from custody.chain.logs import TRANSFER_TOPIC, MalformedLog
from custody.chain.native import NativeInbound, native_transfers, proxy_events
from custody.chain.receipts import InboundTransfer, Receipt, inbound_transfers
from custody.ledger import Entry
from custody.settings.chains import Chain

_WORD_HEX: Final = 66


@dataclass(frozen=True, slots=True)
class StandingFact:
    """A live inbound fact of the transaction that is looked at."""

    id: UUID
    block_number: int
    block_hash: str
    log_index: int
    tx_ordinal: int
    payment_id: UUID | None
    destination_id: UUID
    token: str
    recipient: str
    amount_units: int
    is_judged: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """An issued address, as the fleet stores it."""

    id: UUID
    address: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the canonical chain says came in: one Transfer log, or native coin, to one issued address.

    ``token`` as fleet.tokens stores it; ``transfer.amount`` in its smallest unit.
    """

    inbound: InboundTransfer | NativeInbound
    destination: Destination
    token: str
    decimals: int

    def is_same_transfer(self, fact: StandingFact) -> bool:
        transfer = self.inbound.transfer
        return (transfer.log_index, self.token, transfer.recipient, transfer.amount) == (
            fact.log_index,
            fact.token,
            fact.recipient,
            fact.amount_units,
        )


def lock_standing_facts(
    connection: Connection, chain_id: int, transaction_hashes: Collection[str]
) -> dict[str, list[StandingFact]]:
    """The live inbound facts of transactions that have any, in the order of their logs, locked (L17: work rows first)."""
    rows = connection.execute(
        text(
            """
            SELECT id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, payment_id, destination_id, token,
                recipient, amount_units, judged_at
            FROM fleet.chain_facts
            WHERE chain_id = :chain_id AND transaction_hash = ANY(:hashes) AND direction = 'inbound' AND live
            ORDER BY id FOR UPDATE
            """
        ),
        {"chain_id": chain_id, "hashes": list(transaction_hashes)},
    ).all()
    found: dict[str, list[StandingFact]] = {}
    for row in sorted(rows, key=lambda row: row.tx_ordinal):
        found.setdefault(row.transaction_hash, []).append(_standing(row))
    return found


def _standing(row: Any) -> StandingFact:
    return StandingFact(
        row.id,
        row.block_number,
        row.block_hash,
        row.log_index,
        row.tx_ordinal,
        row.payment_id,
        row.destination_id,
        row.token,
        row.recipient,
        int(row.amount_units),
        row.judged_at is not None,
    )


def lock_reconciled(
    connection: Connection, chain_id: int, destination_ids: Iterable[UUID], block_number: int
) -> list[StandingFact]:
    """The reconciled facts that counted native coins of this block already: the first ones since, locked (L8)."""
    rows = connection.execute(
        text(
            """
            SELECT id, block_number, block_hash, log_index, tx_ordinal, payment_id, destination_id, token, recipient,
                amount_units, judged_at
            FROM fleet.chain_facts WHERE live AND id IN (
                SELECT DISTINCT ON (destination_id) id FROM fleet.chain_facts
                WHERE chain_id = :chain_id AND live AND log_index = -2 AND block_number >= :number
                    AND destination_id = ANY(:ids)
                ORDER BY destination_id, block_number)
            ORDER BY id FOR UPDATE
            """
        ),
        {"chain_id": chain_id, "ids": list(destination_ids), "number": block_number},
    )
    return [_standing(row) for row in rows]


def blocks_of(
    connection: Connection, chain_id: int, transaction_hashes: Sequence[str]
) -> dict[str, set[tuple[int, str]]]:
    """Where the live inbound facts of these transactions stand, (height, hash), by transaction."""
    found: dict[str, set[tuple[int, str]]] = {}
    for row in connection.execute(
        text(
            """
            SELECT DISTINCT transaction_hash, block_number, block_hash FROM fleet.chain_facts
            WHERE chain_id = :chain_id AND transaction_hash = ANY(:hashes) AND direction = 'inbound' AND live
            """
        ),
        {"chain_id": chain_id, "hashes": list(transaction_hashes)},
    ):
        found.setdefault(row.transaction_hash, set()).add((row.block_number, row.block_hash))
    return found


def arrivals(connection: Connection, chain: Chain, receipts: Collection[Receipt]) -> dict[str, list[Arrival]]:
    """What transactions brought to any address ever issued, for any chain (L10, L12): by transaction, in log order.

    Addresses are matched in this transaction, after the block's data arrived, so that none issued meanwhile
    is missed. Raises MalformedLog when an allow-listed token's or a proxy's event has an impossible shape, Unproved
    when a transaction's own value is not known. What a native proxy's event says is not proved here.
    """
    found: dict[str, list[Arrival]] = {receipt.transaction_hash: [] for receipt in receipts}
    destinations = _issued(connection, chain.id, {one for receipt in receipts for one in _recipients(chain, receipt)})
    if not destinations:
        return found
    tokens = {
        to_checksum_address(row.token): (row.token, int(row.decimals))
        for row in connection.execute(
            text("SELECT token, decimals FROM fleet.tokens WHERE chain_id = :id AND token <> :native"),
            {"id": chain.id, "native": NATIVE},
        )
    }
    fee_proxies = {to_checksum_address(chain.fee_proxy)}
    for receipt in receipts:
        found[receipt.transaction_hash] = _native_arrivals(connection, chain, receipt, destinations) + [
            Arrival(inbound, destinations[inbound.transfer.recipient], *tokens[inbound.transfer.token])
            for inbound in inbound_transfers(
                receipt, tokens=tokens.keys(), watched=destinations.keys(), fee_proxies=fee_proxies
            )
        ]
    return found


def may_bring_native(chain: Chain, receipt: Receipt) -> bool:
    """Whether the transaction may have brought native coin to anybody, as far as it says itself (L8)."""
    return receipt.value != 0 or any(log.address in native_proxies(chain) for log in receipt.logs)


def _native_arrivals(
    connection: Connection, chain: Chain, receipt: Receipt, destinations: Mapping[str, Destination]
) -> list[Arrival]:
    inbound = native_transfers(receipt, watched=destinations.keys(), fee_proxies=native_proxies(chain))
    if not inbound:
        return []
    row = connection.execute(
        text(
            """
            SELECT t.decimals, EXISTS (SELECT FROM fleet.house_accounts h
                WHERE h.chain_id = t.chain_id AND h.address = :sender) AS is_ours
            FROM fleet.tokens t WHERE t.chain_id = :id AND t.token = :native
            """
        ),
        {"id": chain.id, "native": NATIVE, "sender": receipt.sender},
    ).one_or_none()
    # What the house sends to an address is gas for its sweep, in the house's books, and pays nobody's debt (L6).
    if row is None or row.is_ours:
        return []
    return [Arrival(one, destinations[one.transfer.recipient], NATIVE, row.decimals) for one in inbound]


def native_proxies(chain: Chain) -> set[str]:
    """The contracts whose native payment events are heard."""
    return set() if chain.native_fee_proxy is None else {to_checksum_address(chain.native_fee_proxy)}


def native_events_to(chain: Chain, receipt: Receipt) -> set[str]:
    """The recipients that a transaction's native proxy events name; none when one of them is malformed."""
    try:
        return {event.recipient for _, event in proxy_events(receipt, native_proxies(chain))}
    except MalformedLog:
        return set()


def issued_of(connection: Connection, chain_id: int, addresses: Iterable[str]) -> set[str]:
    """Which of the addresses (checksummed) were ever issued."""
    return set(_issued(connection, chain_id, addresses))


def _recipients(chain: Chain, receipt: Receipt) -> set[str]:
    named: set[str] = {
        to_checksum_address("0x" + log.topics[2][-40:])
        for log in receipt.logs
        if log.event == TRANSFER_TOPIC and len(log.topics) == 3 and len(log.topics[2]) == _WORD_HEX
    }
    named |= {event.recipient for _, event in proxy_events(receipt, native_proxies(chain))}
    return named if receipt.to is None else named | {receipt.to}


def _issued(connection: Connection, chain_id: int, addresses: Iterable[str]) -> dict[str, Destination]:
    # Both spellings instead of lower(address), so that the index on address serves.
    spellings = {spelling for address in addresses for spelling in (address, address.lower())}
    if not spellings:
        return {}
    rows = connection.execute(
        text(
            """
            SELECT id, address FROM public.derived_destinations WHERE address = ANY(:addresses)
            ORDER BY (chain_id = :chain_id), created_at
            """
        ),
        {"addresses": sorted(spellings), "chain_id": chain_id},
    )
    # Last one wins: the row issued for this very chain.
    return {to_checksum_address(row.address): Destination(row.id, row.address) for row in rows}


def insert_facts(connection: Connection, chain_id: int, wanted: Sequence[tuple[Arrival, UUID | None]]) -> list[UUID]:
    """Write new facts, each with its payment or None, in one statement; return their ids in the same order.

    A log seen before, in this block or another, is one incarnation more (L1).
    """
    transfers = [arrival.inbound.transfer for arrival, _ in wanted]
    ids = {
        (row.transaction_hash, row.tx_ordinal): row.id
        for row in connection.execute(
            _INSERT,
            {
                "chain_id": chain_id,
                "block_numbers": [transfer.block_number for transfer in transfers],
                "block_hashes": [transfer.block_hash for transfer in transfers],
                "hashes": [transfer.transaction_hash for transfer in transfers],
                "log_indexes": [transfer.log_index for transfer in transfers],
                "ordinals": [arrival.inbound.tx_ordinal for arrival, _ in wanted],
                "tokens": [arrival.token for arrival, _ in wanted],
                "senders": [transfer.sender for transfer in transfers],
                "recipients": [transfer.recipient for transfer in transfers],
                "units": [transfer.amount for transfer in transfers],
                "topics": [arrival.inbound.reference_topic for arrival, _ in wanted],
                "payments": [payment_id for _, payment_id in wanted],
                "destinations": [arrival.destination.id for arrival, _ in wanted],
            },
        )
    }
    return [ids[arrival.inbound.transfer.transaction_hash, arrival.inbound.tx_ordinal] for arrival, _ in wanted]


_INSERT: Final = text(
    """
    INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token,
        sender, recipient, amount_units, direction, reference_topic, payment_id, destination_id, incarnation)
    SELECT :chain_id, a.block_number, a.block_hash, a.hash, a.log_index, a.ordinal, a.token, a.sender, a.recipient,
        a.units, 'inbound', a.topic, a.payment_id, a.destination_id, coalesce((
            SELECT max(f.incarnation) FROM fleet.chain_facts f
            WHERE f.chain_id = :chain_id AND f.transaction_hash = a.hash AND f.tx_ordinal = a.ordinal), 0) + 1
    FROM unnest(CAST(:block_numbers AS bigint[]), CAST(:block_hashes AS text[]), CAST(:hashes AS text[]),
        CAST(:log_indexes AS integer[]), CAST(:ordinals AS integer[]), CAST(:tokens AS text[]), CAST(:senders AS text[]),
        CAST(:recipients AS text[]), CAST(:units AS numeric[]), CAST(:topics AS text[]), CAST(:payments AS uuid[]),
        CAST(:destinations AS uuid[])) AS a (block_number, block_hash, hash, log_index, ordinal, token, sender, recipient,
            units, topic, payment_id, destination_id)
    RETURNING id, transaction_hash, tx_ordinal
    """
)


def set_payment(connection: Connection, fact_id: UUID, payment_id: UUID) -> None:
    """Attribute a fact that had no payment. Set once (L2)."""
    connection.execute(
        text("UPDATE fleet.chain_facts SET payment_id = :payment_id WHERE id = :id AND payment_id IS NULL"),
        {"id": fact_id, "payment_id": payment_id},
    )


def seen_entry(
    fact_id: UUID,
    arrival: Arrival,
    units: int,
    *,
    payment_id: UUID,
    basis: str,
    evidence: Mapping[str, str] | None = None,
) -> Entry:
    """The entry that books a transfer (L7): what of it is due is decided at depth.

    ``units``: all of it, but for what is a loss taken back (L5). ``basis``: why it is that payment's (L11).
    ``evidence`` is kept beside its place.
    """
    transfer = arrival.inbound.transfer
    return Entry(
        book_kind="payment",
        book_id=payment_id,
        chain_id=transfer.chain_id,
        token=arrival.token,
        entry_type="payment_detected",
        reason="seen",
        debit="destination",
        credit="detected",
        amount=to_amount(units, arrival.decimals),
        key=f"fact:{fact_id}:detected",
        debit_address=arrival.destination.address,
        fact_id=fact_id,
        evidence={
            "attribution": basis,
            "transaction_hash": transfer.transaction_hash,
            "log_index": transfer.log_index,
            "block_number": transfer.block_number,
            "block_hash": transfer.block_hash,
            **(evidence or {}),
        },
    )


def lock_destinations(connection: Connection, destination_ids: Iterable[UUID]) -> None:
    """Lock the destinations' rows by id (L17: before payments)."""
    connection.execute(
        text("SELECT 1 FROM public.derived_destinations WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE"),
        {"ids": list(destination_ids)},
    )
