"""Pure decoders for the raw logs of JSON-RPC: ERC-20 Transfer and the fee proxies' payment events.

A log is decoded only when each byte is where the ABI puts it; anything else is MalformedLog, never a guess.
Sources: ERC-20; Solidity ABI specification (events); Request Network ERC20FeeProxy and
EthereumFeeProxy 0.2.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import wire

TRANSFER_TOPIC: Final = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
FEE_PROXY_TOPIC: Final = (
    "0x" + keccak(text="TransferWithReferenceAndFee(address,address,uint256,bytes,uint256,address)").hex()
)
NATIVE_FEE_PROXY_TOPIC: Final = (
    "0x" + keccak(text="TransferWithReferenceAndFee(address,uint256,bytes,uint256,address)").hex()
)
"""The native proxy's event has the token proxy's name and another shape."""
NATIVE_SWEPT_TOPIC: Final = "0x" + keccak(text="NativeSwept(address,uint256)").hex()  # of contracts/SweepDelegate.sol
PAYMENT_REFERENCE_BYTES: Final = 8
_WORD: Final = 32
_ADDRESS_PADDING: Final = bytes(12)


class MalformedLog(ValueError):
    """A log that does not have the exact shape of its event, or that its block lost (`removed`)."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log as a node gave it, each field checked but its event not yet decoded."""

    chain_id: int
    block_number: int
    block_hash: str
    transaction_hash: str
    transaction_index: int
    log_index: int
    address: ChecksumAddress
    topics: tuple[str, ...]
    data: bytes

    @property
    def event(self) -> str | None:
        """topic0, the event's identity; None for an anonymous log without topics."""
        return self.topics[0] if self.topics else None


@dataclass(frozen=True, slots=True)
class TransferLog:
    """ERC-20 `Transfer`: the fact that money is booked from (L2). `amount` in the token's smallest unit."""

    chain_id: int
    block_number: int
    block_hash: str
    transaction_hash: str
    transaction_index: int
    log_index: int
    token: ChecksumAddress
    sender: ChecksumAddress
    recipient: ChecksumAddress
    amount: int


@dataclass(frozen=True, slots=True)
class FeeProxyLog:
    """ERC20FeeProxy `TransferWithReferenceAndFee`: attributes a Transfer, proves nothing by itself (L2).

    Amounts in the token's smallest unit, as the caller of the proxy claimed them. `reference_topic` is
    keccak256 of the 8 reference bytes; the reference itself is not in the log.
    """

    chain_id: int
    block_number: int
    block_hash: str
    transaction_hash: str
    transaction_index: int
    log_index: int
    proxy: ChecksumAddress
    token: ChecksumAddress
    recipient: ChecksumAddress
    amount: int
    reference_topic: str
    fee_amount: int
    fee_address: ChecksumAddress


@dataclass(frozen=True, slots=True)
class NativeFeeProxyLog:
    """EthereumFeeProxy `TransferWithReferenceAndFee`: says that native coin was sent on; proves nothing (L8).

    Amounts in wei, as the proxy says. It names no payer.
    """

    chain_id: int
    block_number: int
    block_hash: str
    transaction_hash: str
    transaction_index: int
    log_index: int
    proxy: ChecksumAddress
    recipient: ChecksumAddress
    amount: int
    reference_topic: str
    fee_amount: int
    fee_address: ChecksumAddress


def read_log(raw: Mapping[str, object], chain_id: int) -> Log:
    """Return the checked envelope of a raw JSON-RPC log. Raises MalformedLog."""
    if raw.get("removed", False) is not False:
        raise MalformedLog("removed: the log's block left the chain, read the transaction's receipt again")
    try:
        topics = wire.items(raw.get("topics"), "topics")
        return Log(
            chain_id=chain_id,
            block_number=wire.quantity(raw.get("blockNumber"), "blockNumber"),
            block_hash=wire.hash32(raw.get("blockHash"), "blockHash"),
            transaction_hash=wire.hash32(raw.get("transactionHash"), "transactionHash"),
            transaction_index=wire.quantity(raw.get("transactionIndex"), "transactionIndex"),
            log_index=wire.quantity(raw.get("logIndex"), "logIndex"),
            address=wire.address(raw.get("address"), "address"),
            topics=tuple(wire.hash32(topic, f"topics[{n}]") for n, topic in enumerate(topics)),
            data=wire.data(raw.get("data"), "data"),
        )
    except wire.MalformedAnswer as error:
        raise MalformedLog(str(error)) from error


def decode_transfer(log: Log) -> TransferLog:
    """Return an ERC-20 Transfer. Raises MalformedLog.

    ERC-721 emits the same topic0 with a fourth topic and no data; that is refused here as well.
    """
    words = _words(log, "Transfer", TRANSFER_TOPIC, topics=3, words=1)
    return TransferLog(
        chain_id=log.chain_id,
        block_number=log.block_number,
        block_hash=log.block_hash,
        transaction_hash=log.transaction_hash,
        transaction_index=log.transaction_index,
        log_index=log.log_index,
        token=log.address,
        sender=_address(bytes.fromhex(log.topics[1][2:]), "from"),
        recipient=_address(bytes.fromhex(log.topics[2][2:]), "to"),
        amount=int.from_bytes(words[0]),
    )


def decode_native_swept(log: Log) -> tuple[ChecksumAddress, int]:
    """Return what our delegate's `NativeSwept` says: the treasury, and the amount in wei. Raises MalformedLog.

    Anyone can emit this event: it speaks of the coins of the address that emitted it, if that runs our delegate.
    """
    words = _words(log, "NativeSwept", NATIVE_SWEPT_TOPIC, topics=2, words=1)
    return _address(bytes.fromhex(log.topics[1][2:]), "treasury"), int.from_bytes(words[0])


def decode_fee_proxy(log: Log) -> FeeProxyLog:
    """Return the ERC20FeeProxy's event. Raises MalformedLog.

    Anyone can emit this event from a contract of their own; the caller checks `proxy` against its own list.
    """
    words = _words(log, "TransferWithReferenceAndFee", FEE_PROXY_TOPIC, topics=2, words=5)
    return FeeProxyLog(
        chain_id=log.chain_id,
        block_number=log.block_number,
        block_hash=log.block_hash,
        transaction_hash=log.transaction_hash,
        transaction_index=log.transaction_index,
        log_index=log.log_index,
        proxy=log.address,
        token=_address(words[0], "tokenAddress"),
        recipient=_address(words[1], "to"),
        amount=int.from_bytes(words[2]),
        reference_topic=log.topics[1],
        fee_amount=int.from_bytes(words[3]),
        fee_address=_address(words[4], "feeAddress"),
    )


def decode_native_fee_proxy(log: Log) -> NativeFeeProxyLog:
    """Return the EthereumFeeProxy's event. Raises MalformedLog. The caller checks `proxy` against its own list."""
    words = _words(log, "TransferWithReferenceAndFee", NATIVE_FEE_PROXY_TOPIC, topics=2, words=4)
    return NativeFeeProxyLog(
        chain_id=log.chain_id,
        block_number=log.block_number,
        block_hash=log.block_hash,
        transaction_hash=log.transaction_hash,
        transaction_index=log.transaction_index,
        log_index=log.log_index,
        proxy=log.address,
        recipient=_address(words[0], "to"),
        amount=int.from_bytes(words[1]),
        reference_topic=log.topics[1],
        fee_amount=int.from_bytes(words[2]),
        fee_address=_address(words[3], "feeAddress"),
    )


def read_transfer(raw: Mapping[str, object], chain_id: int) -> TransferLog:
    """Return a raw JSON-RPC log as an ERC-20 Transfer. Raises MalformedLog."""
    return decode_transfer(read_log(raw, chain_id))


def read_fee_proxy(raw: Mapping[str, object], chain_id: int) -> FeeProxyLog:
    """Return a raw JSON-RPC log as the ERC20FeeProxy's event. Raises MalformedLog."""
    return decode_fee_proxy(read_log(raw, chain_id))


def payment_reference(request_id: str, salt: str, address: str) -> bytes:
    """Return Request Network's 8-byte payment reference.

    The last 8 bytes of keccak256 over the lower-cased concatenation of the request id (without 0x), the salt
    and the address (with 0x), as UTF-8. Source: Request Network, payment reference specification.
    """
    return keccak(text=(request_id + salt + address).lower())[-PAYMENT_REFERENCE_BYTES:]


def reference_topic(reference: bytes) -> str:
    """Return topic1 of the proxy's event for a reference: keccak256 of its 8 bytes (`bytes indexed`).

    Raises ValueError for another length: the proxy takes any, Request Network issues 8.
    """
    if len(reference) != PAYMENT_REFERENCE_BYTES:
        raise ValueError(f"payment reference: expected {PAYMENT_REFERENCE_BYTES} bytes, got {len(reference)}")
    return "0x" + keccak(reference).hex()


def _words(log: Log, name: str, topic: str, *, topics: int, words: int) -> list[bytes]:
    if log.event != topic:
        raise MalformedLog(f"{name}: topic0 is {log.event}, expected {topic}")
    if len(log.topics) != topics:
        raise MalformedLog(f"{name}: expected {topics} topics, got {len(log.topics)}")
    if len(log.data) != words * _WORD:
        raise MalformedLog(f"{name}: expected {words * _WORD} bytes of data, got {len(log.data)}")
    return [log.data[start : start + _WORD] for start in range(0, len(log.data), _WORD)]


def _address(word: bytes, field: str) -> ChecksumAddress:
    # Bytes above the 20 of an address would be cut off silently; a contract that sets them is lying.
    if not word.startswith(_ADDRESS_PADDING):
        raise MalformedLog(f"{field}: 12 zero bytes expected before the address, got 0x{word.hex()}")
    return to_checksum_address(word[len(_ADDRESS_PADDING) :])
