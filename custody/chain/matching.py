"""Which transactions of scanned blocks concern us: matched against every address and reference ever issued (L12).

Done in the transaction that moves the cursor, after the blocks' data arrived, so that nothing issued meanwhile is missed.
What a match means is decided by a look at the whole transaction. The cost is that of the block, whatever was issued.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, text

from custody.chain.blocks import ScannedBlock
from custody.chain.logs import TRANSFER_TOPIC

_WORD_HEX: Final = 66


def concerned(connection: Connection, blocks: Iterable[ScannedBlock]) -> list[str]:
    """The hashes of the blocks' transactions that paid an issued address, or named an issued reference, in their order."""
    by_address: dict[str, set[str]] = {}
    by_topic: dict[str, set[str]] = {}
    places: dict[str, tuple[int, int]] = {}
    for block in blocks:
        for log in block.logs:
            places[log.transaction_hash] = (log.block_number, log.transaction_index)
            if log.event == TRANSFER_TOPIC:
                # An event of another shape is the token's fault: the look at its transaction says so.
                recipient = log.topics[2] if len(log.topics) > 2 else ""
                if len(recipient) == _WORD_HEX:
                    by_address.setdefault("0x" + recipient[-40:], set()).add(log.transaction_hash)
            elif len(log.topics) > 1:
                by_topic.setdefault(log.topics[1], set()).add(log.transaction_hash)
        for one in block.transactions:
            places[one.hash] = (block.header.number, one.index)
            if one.to is not None and one.value > 0:
                by_address.setdefault(one.to.lower(), set()).add(one.hash)
    found: set[str] = set()
    for address in _issued(connection, sorted(by_address)):
        found |= by_address[address.lower()]
    for topic in _known_references(connection, sorted(by_topic)):
        found |= by_topic[topic.lower()]
    return sorted(found, key=places.__getitem__)


def _issued(connection: Connection, addresses: Sequence[str]) -> list[str]:
    if not addresses:
        return []
    # Both spellings instead of lower(address), so that the index on address serves.
    spellings = [spelling for address in addresses for spelling in (address, to_checksum_address(address))]
    return list(
        connection.execute(
            text("SELECT DISTINCT address FROM public.derived_destinations WHERE address = ANY(:addresses)"),
            {"addresses": spellings},
        ).scalars()
    )


def _known_references(connection: Connection, topics: Sequence[str]) -> list[str]:
    if not topics:
        return []
    return list(
        connection.execute(
            text("SELECT reference_topic FROM fleet.payment_routes WHERE reference_topic = ANY(:topics)"),
            {"topics": list(topics)},
        ).scalars()
    )


def misplaced(connection: Connection, chain_id: int, blocks: Sequence[ScannedBlock]) -> list[str]:
    """Transactions with a fact that waits for depth at one of these heights, in another block than stands there.

    ``blocks`` follow each other. Their heights are a range, so that of all that waits only what is there is read.
    """
    return list(
        connection.execute(
            text(
                """
                SELECT DISTINCT transaction_hash FROM fleet.chain_facts
                WHERE chain_id = :id AND block_number BETWEEN :first AND :last AND block_hash <> ALL(:hashes)
                    AND live AND judged_at IS NULL AND direction = 'inbound' AND log_index <> -2
                """
            ),
            {
                "id": chain_id,
                "first": blocks[0].header.number,
                "last": blocks[-1].header.number,
                "hashes": [block.header.hash for block in blocks],
            },
        ).scalars()
    )
