"""Native coin that came to our addresses (L8): no Transfer log says so.

Said by a top-level value transfer with status 1, or by an event of Request Network's EthereumFeeProxy that the
recipient's balance confirms (`native_proof`). What contracts move inside is in neither, and found by the balance
(`native_reconciliation`). Amounts in wei.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from eth_typing import ChecksumAddress

from custody.chain.logs import NATIVE_FEE_PROXY_TOPIC, NativeFeeProxyLog, decode_native_fee_proxy
from custody.chain.receipts import Receipt

TOP_LEVEL: Final = -1
"""Log index and place in its transaction of a top-level transfer: there is no log, and one such transfer at most."""

BALANCE: Final = -2
"""Log index and place of a fact that a balance was reconciled by: there is neither log nor known transaction."""


class Unproved(Exception):
    """What the node answers does not prove native coin that it speaks of. Nothing was changed; it is asked again."""


@dataclass(frozen=True, slots=True)
class NativeTransfer:
    """Native coin that came to an address; `amount` in wei.

    `sender` signed the transaction (the proxy's event names no payer), or is the zero address where only the balance
    is known. `log_index`: the proxy event's own, TOP_LEVEL or BALANCE.
    """

    chain_id: int
    block_number: int
    block_hash: str
    transaction_hash: str
    log_index: int
    sender: ChecksumAddress
    recipient: ChecksumAddress
    amount: int


@dataclass(frozen=True, slots=True)
class NativeInbound:
    """Native coin to a watched address, as InboundTransfer is for tokens.

    `tx_ordinal`: the proxy event's place inside its transaction, TOP_LEVEL or BALANCE (L1).
    """

    transfer: NativeTransfer
    tx_ordinal: int
    reference_topic: str | None


def proxy_events(receipt: Receipt, fee_proxies: Collection[str]) -> list[tuple[int, NativeFeeProxyLog]]:
    """Return what the configured native proxies said, each with its place inside the transaction; amounts above 0.

    Raises MalformedLog when one of them emits its event in a shape it cannot have.
    """
    if not receipt.succeeded:
        return []
    events = [
        (ordinal, decode_native_fee_proxy(log))
        for ordinal, log in enumerate(receipt.logs)
        if log.event == NATIVE_FEE_PROXY_TOPIC and log.address in fee_proxies
    ]
    return [(ordinal, event) for ordinal, event in events if event.amount > 0]


def native_transfers(
    receipt: Receipt, *, watched: Collection[str], fee_proxies: Collection[str]
) -> list[NativeInbound]:
    """Return the native coin that the transaction says came to `watched` addresses (checksummed).

    Left out: a transaction that reverted, zero amounts, and an address that pays itself. What a proxy's event says
    still needs its proof. Raises Unproved when the transaction's own value was not read, MalformedLog as above.
    """
    if not receipt.succeeded:
        return []
    found: list[NativeInbound] = []
    if receipt.to in watched and receipt.to is not None and receipt.to != receipt.sender:
        if receipt.value is None:
            raise Unproved(f"the node shows the receipt of {receipt.transaction_hash}, but not the transaction")
        if receipt.value > 0:
            found.append(NativeInbound(_transfer(receipt, TOP_LEVEL, receipt.to, receipt.value), TOP_LEVEL, None))
    found += [
        NativeInbound(
            _transfer(receipt, event.log_index, event.recipient, event.amount), ordinal, event.reference_topic
        )
        for ordinal, event in proxy_events(receipt, fee_proxies)
        if event.recipient in watched and event.recipient != receipt.sender
    ]
    return found


def _transfer(receipt: Receipt, log_index: int, recipient: ChecksumAddress, amount: int) -> NativeTransfer:
    return NativeTransfer(
        chain_id=receipt.chain_id,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        transaction_hash=receipt.transaction_hash,
        log_index=log_index,
        sender=receipt.sender,
        recipient=recipient,
        amount=amount,
    )
