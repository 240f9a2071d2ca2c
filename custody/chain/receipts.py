"""Receipts, and what a transaction really brought to our addresses.

The fact is the token's Transfer log; the payment proxy's event only says which payment it was for (L2). A
receipt's status alone proves nothing (design §2.5), and the proxy's event can claim anything.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from eth_typing import ChecksumAddress

from custody.chain import wire
from custody.chain.logs import (
    FEE_PROXY_TOPIC,
    TRANSFER_TOPIC,
    FeeProxyLog,
    Log,
    MalformedLog,
    TransferLog,
    decode_fee_proxy,
    decode_transfer,
    read_log,
)

SUCCESS = 1


class MalformedReceipt(ValueError):
    """A receipt whose fields are not as specified, or whose logs contradict it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction's receipt. Gas in units of gas, prices and fees in wei.

    `l1_fee` is what an OP-stack chain takes beside gas (its receipts' `l1Fee`), 0 elsewhere.
    """

    chain_id: int
    transaction_hash: str
    transaction_index: int
    block_number: int
    block_hash: str
    status: int
    sender: ChecksumAddress
    to: ChecksumAddress | None
    contract_address: ChecksumAddress | None
    gas_used: int
    effective_gas_price: int
    l1_fee: int
    logs: tuple[Log, ...]
    value: int | None = None
    """What the transaction itself carried to `to`, wei; no receipt says it, None where it was not asked for."""

    @property
    def succeeded(self) -> bool:
        """Whether execution did not revert. No proof that money moved."""
        return self.status == SUCCESS

    @property
    def fee(self) -> int:
        """What the sender paid for gas, wei: gas used times effective price, plus the L1 fee (L6)."""
        return self.gas_used * self.effective_gas_price + self.l1_fee


@dataclass(frozen=True, slots=True)
class InboundTransfer:
    """One Transfer to a watched address.

    `tx_ordinal` is the log's place inside its transaction, from 0: it survives a reorganisation that moves
    the transaction, where the log index does not (L1). `reference_topic` is the proxy event's topic1, None
    for a transfer that no proxy event speaks for.
    """

    transfer: TransferLog
    tx_ordinal: int
    reference_topic: str | None


def read_receipt(raw: Mapping[str, object], chain_id: int) -> Receipt:
    """Return a raw `eth_getTransactionReceipt` answer, each log checked against it.

    Raises MalformedReceipt, also for a log that names another transaction or block, or is out of order.
    """
    try:
        receipt = Receipt(
            chain_id=chain_id,
            transaction_hash=wire.hash32(raw.get("transactionHash"), "transactionHash"),
            transaction_index=wire.quantity(raw.get("transactionIndex"), "transactionIndex"),
            block_number=wire.quantity(raw.get("blockNumber"), "blockNumber"),
            block_hash=wire.hash32(raw.get("blockHash"), "blockHash"),
            status=wire.quantity(raw.get("status"), "status"),
            sender=wire.address(raw.get("from"), "from"),
            to=_optional_address(raw.get("to"), "to"),
            contract_address=_optional_address(raw.get("contractAddress"), "contractAddress"),
            gas_used=wire.quantity(raw.get("gasUsed"), "gasUsed"),
            effective_gas_price=wire.quantity(raw.get("effectiveGasPrice"), "effectiveGasPrice"),
            l1_fee=0 if raw.get("l1Fee") is None else wire.quantity(raw["l1Fee"], "l1Fee"),
            logs=tuple(read_log(wire.member(log, "logs[]"), chain_id) for log in wire.items(raw.get("logs"), "logs")),
        )
    except (wire.MalformedAnswer, MalformedLog) as error:
        raise MalformedReceipt(str(error)) from error
    _check_logs(receipt)
    return receipt


def inbound_transfers(
    receipt: Receipt,
    *,
    tokens: Collection[str],
    watched: Collection[str],
    fee_proxies: Collection[str],
) -> list[InboundTransfer]:
    """Return what the transaction brought to `watched` addresses in allow-listed `tokens`, in log order.

    All three collections hold checksum addresses on the receipt's chain. Left out: a transaction that
    reverted, zero amounts, and transfers of an address to itself, which bring it nothing. An event of
    another contract than `fee_proxies` attributes nothing, whatever it says.
    Raises MalformedLog when an allow-listed token or proxy emits its event in a shape it cannot have.
    """
    if not receipt.succeeded:
        return []
    transfers: dict[int, TransferLog] = {}
    references: dict[int, str] = {}
    # What the next proxy event may speak for: transfers before an event belong to it or to nobody.
    window: dict[int, TransferLog] = {}
    for ordinal, log in enumerate(receipt.logs):
        if log.event == TRANSFER_TOPIC and log.address in tokens:
            transfers[ordinal] = window[ordinal] = decode_transfer(log)
        elif log.event == FEE_PROXY_TOPIC and log.address in fee_proxies:
            event = decode_fee_proxy(log)
            spoken_for = _transfer_of(event, window)
            if spoken_for is not None:
                references[spoken_for] = event.reference_topic
            window = {}
    return [
        InboundTransfer(transfer, ordinal, references.get(ordinal))
        for ordinal, transfer in transfers.items()
        if transfer.recipient in watched and transfer.amount > 0 and transfer.sender != transfer.recipient
    ]


def _transfer_of(event: FeeProxyLog, window: Mapping[int, TransferLog]) -> int | None:
    """Return the ordinal of the transfer an event speaks for, or None.

    The proxy emits after it moved the coins, so its transfer lies between the previous event and this one:
    the nearest with the event's token, recipient and amount. A token that keeps a fee delivers less than the
    event says; then it is the nearest with that token and recipient, if it is smaller.
    """
    nearest_first = [
        (ordinal, transfer.amount)
        for ordinal, transfer in reversed(list(window.items()))
        if transfer.token == event.token and transfer.recipient == event.recipient
    ]
    for ordinal, amount in nearest_first:
        if amount == event.amount:
            return ordinal
    if nearest_first and nearest_first[0][1] < event.amount:
        return nearest_first[0][0]
    return None


def _optional_address(value: object, field: str) -> ChecksumAddress | None:
    return None if value is None else wire.address(value, field)


def _check_logs(receipt: Receipt) -> None:
    last = -1
    for log in receipt.logs:
        place = (log.transaction_hash, log.block_hash, log.block_number, log.transaction_index)
        expected = (
            receipt.transaction_hash,
            receipt.block_hash,
            receipt.block_number,
            receipt.transaction_index,
        )
        if place != expected:
            raise MalformedReceipt(
                f"receipt {receipt.transaction_hash}: log {log.log_index} is of another transaction or block"
            )
        if log.log_index <= last:
            raise MalformedReceipt(f"receipt {receipt.transaction_hash}: log {log.log_index} is out of order")
        last = log.log_index
