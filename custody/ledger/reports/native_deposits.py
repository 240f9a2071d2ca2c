"""Native coin that the chain has at our addresses and no entry books, by the transactions that brought it (L8, L22).

Asked for only where an address has more than books and listed transactions explain. What moved inside a contract shows
in no transaction of its own: it stays a remainder until the watcher's balance reconciliation has booked it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from custody.chain import wire
from custody.chain.assets import NATIVE
from custody.chain.facts import native_proxies
from custody.chain.logs import MalformedLog
from custody.chain.native import NativeTransfer, Unproved, native_transfers
from custody.chain.receipts import Receipt
from custody.chain.rpc import ChainClient
from custody.ledger.reports.escrow_books import Books, Place
from custody.ledger.reports.in_transit import InTransit
from custody.settings.chains import Chain

if TYPE_CHECKING:
    from custody.chain.transport import Call

BLOCKS_AT_ONCE: Final = 50  # whole blocks in one request: some megabytes where they are full
BLOCKS_MAXIMUM: Final = 2_000  # looked through, newest first: forty requests, and only when something is unexplained


def native_deposits(
    books: Books, client: ChainClient, chain: Chain, surplus: Mapping[Place, int], oldest: int
) -> list[InTransit]:
    """Deposits of native coin at places that hold ``surplus`` > 0 wei too much, from block ``oldest`` to B.

    Never more of them than the surplus: what a balance told of before is booked already. Raises ChainUnavailable.
    """
    missing = {address: wei for (token, address), wei in surplus.items() if token == NATIVE and wei > 0}
    if not missing:
        return []
    first = max(oldest, books.block - BLOCKS_MAXIMUM + 1, 0)
    announced = set(books.announced)
    found = client.receipts_and_headers([*books.announced, *_sent_to(client, missing, first, books.block)], values=True)
    items: list[InTransit] = []
    for transaction_hash in found.receipts:
        receipt = found.canonical(transaction_hash)
        if receipt is None or receipt.block_number > books.block or receipt.sender in books.house:
            continue
        for transfer in _transfers(chain, receipt, missing):
            key = (transfer.transaction_hash, transfer.block_hash, transfer.log_index)
            if key in books.booked or transfer.amount > missing[transfer.recipient]:
                continue
            missing[transfer.recipient] -= transfer.amount
            why = (
                "announced, not booked yet" if transaction_hash in announced else "nobody announced it; ask: fleet look"
            )
            items.append(
                InTransit(
                    f"deposit: {why}",
                    (NATIVE, transfer.recipient),
                    transfer.amount,
                    transaction_hash,
                    receipt.block_number,
                )
            )
    return items


def _transfers(chain: Chain, receipt: Receipt, addresses: Mapping[str, int]) -> list[NativeTransfer]:
    try:
        inbound = native_transfers(receipt, watched=addresses.keys(), fee_proxies=native_proxies(chain))
    except (MalformedLog, Unproved):
        return []  # no evidence
    return [one.transfer for one in inbound]


def _sent_to(client: ChainClient, addresses: Mapping[str, int], first: int, last: int) -> list[str]:
    """The transactions of these blocks that carry coin to one of the addresses themselves."""
    wanted = {address.lower() for address in addresses}
    hashes: list[str] = []
    for start in range(first, last + 1, BLOCKS_AT_ONCE):
        calls: list[Call] = [
            ("eth_getBlockByNumber", [hex(number), True])
            for number in range(start, min(start + BLOCKS_AT_ONCE, last + 1))
        ]
        for answer in client.ask(calls):
            if answer.error is not None or answer.result is None:
                continue  # a node that keeps no such block: what it cannot show stays unexplained
            for raw in wire.items(wire.member(answer.result, "block").get("transactions"), "transactions"):
                item = wire.member(raw, "transaction")
                if str(item.get("to")).lower() in wanted and wire.quantity(item.get("value"), "value") > 0:
                    hashes.append(wire.hash32(item.get("hash"), "hash"))
    return hashes
