"""The fleet's client of one EVM node over web3's HTTPProvider.

Reads are retried a few times, sends never. Answers are checked by `wire` before they are used. Nothing here
may run inside a database transaction (L15).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import structlog
from eth_utils.crypto import keccak

from custody.chain import erc20, node_errors, wire
from custody.chain.blocks import BlockHeader, ReceiptsAndHeaders, header_at, read_header
from custody.chain.errors import (
    ChainUnavailable,
    ExecutionReverted,
    SendOutcomeUnknown,
)
from custody.chain.logs import TRANSFER_TOPIC, Log, TransferLog, read_log, read_transfer
from custody.chain.node_reads import NodeReads
from custody.chain.receipts import Receipt, read_receipt

if TYPE_CHECKING:
    from custody.chain.transport import Call

_logger = structlog.get_logger(__name__)
_Nonce = Literal["latest", "pending"]


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call or a transaction to estimate: `value` and fees in wei, `data` the calldata.

    `authorizations`: EIP-7702 tuples as nodes take them, each with chainId, address, nonce, yParity, r and s.
    """

    to: str | None
    data: bytes = b""
    value: int = 0
    sender: str | None = None
    authorizations: tuple[Mapping[str, str], ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the JSON-RPC transaction object."""
        fields: dict[str, object] = {"data": "0x" + self.data.hex(), "value": hex(self.value)}
        if self.authorizations:
            fields["authorizationList"] = [dict(each) for each in self.authorizations]
        if self.to is not None:
            fields["to"] = self.to
        if self.sender is not None:
            fields["from"] = self.sender
        return fields


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account at the newest block: native coin in wei, and how many transactions it has sent."""

    balance: int
    nonce: int


class ChainClient(NodeReads):
    """Reads from and sends to one node. Safe to share between threads; build it after a fork.

    Every read raises ChainUnavailable when no usable answer came.
    """

    def chain_id(self) -> int:
        """Return the id the node signs and accepts transactions for (EIP-155)."""
        return self._read("eth_chainId", [], lambda value: wire.quantity(value, "chainId"))

    def genesis_hash(self) -> str:
        """Return block 0's hash, which with the id is the chain's identity (R17)."""
        return self._read("eth_getBlockByNumber", ["0x0", False], read_header).hash

    def require_identity(self, chain_id: int, genesis_hash: str | None) -> None:
        """Refuse a node of another chain: raises WrongChain (R17).

        `genesis_hash` None checks the id alone, as for a chain whose genesis is not pinned yet.
        """
        found = self.chain_id()
        if found != chain_id:
            raise self._wrong_chain(f"it is chain {found}, expected {chain_id}; check this chain's RPC URL")
        if genesis_hash is None:
            return
        genesis = self.genesis_hash()
        if genesis != genesis_hash.lower():
            raise self._wrong_chain(
                f"its genesis block is {genesis}, expected {genesis_hash}; it is another chain of the same id"
            )

    def head(self) -> BlockHeader:
        """Return the newest block."""
        return self._read("eth_getBlockByNumber", ["latest", False], read_header)

    def header(self, number: int) -> BlockHeader | None:
        """Return the block the node has at a height, None above its head."""
        return self._read("eth_getBlockByNumber", [hex(number), False], header_at(number))

    def headers(self, numbers: Collection[int]) -> dict[int, BlockHeader]:
        """Return the blocks the node has at these heights, by one batched request; none above its head."""
        wanted = sorted(set(numbers))
        found = self._read_batch(
            [(("eth_getBlockByNumber", [hex(number), False]), header_at(number)) for number in wanted]
        )
        return {
            number: cast(BlockHeader, header)
            for number, header in zip(wanted, found, strict=True)
            if header is not None
        }

    def receipt(self, transaction_hash: str) -> Receipt | None:
        """Return a transaction's receipt, None while no block of the node's chain holds it."""
        return self._read("eth_getTransactionReceipt", [transaction_hash], self._receipt_of(transaction_hash))

    def receipts_and_headers(
        self, transaction_hashes: Collection[str], heights: Collection[int] = (), *, values: bool = False
    ) -> ReceiptsAndHeaders:
        """Return head, receipts and the headers at `heights` by one batched request, then the headers of the
        receipts' other blocks by a second one.

        `values`: the first one asks for the transactions as well, whose value no receipt has (L8).
        Requests are split at the connection's `max_batch` calls.
        """
        wanted = list(dict.fromkeys(transaction_hashes))
        known = sorted(set(heights))
        head_call: tuple[Call, Callable[[object], object]] = (
            ("eth_getBlockByNumber", ["latest", False]),
            read_header,
        )
        # Headers come last: a block that was replaced while its receipts were read does not fit them.
        value_calls: list[tuple[Call, Callable[[object], object]]] = [
            (("eth_getTransactionByHash", [tx]), _value_of(tx)) for tx in wanted if values
        ]
        first = self._read_batch(
            [
                head_call,
                *((("eth_getTransactionReceipt", [tx]), self._receipt_of(tx)) for tx in wanted),
                *value_calls,
                *((("eth_getBlockByNumber", [hex(number), False]), header_at(number)) for number in known),
            ]
        )
        head, end = cast(BlockHeader, first[0]), 1 + len(wanted)
        receipts = {tx: cast(Receipt, receipt) for tx, receipt in zip(wanted, first[1:end], strict=True) if receipt}
        for tx, value in zip(wanted, first[end : end + len(value_calls)], strict=False):
            if tx in receipts:
                receipts[tx] = replace(receipts[tx], value=cast(int | None, value))
        at_heights = first[end + len(value_calls) :]
        numbers = sorted({receipt.block_number for receipt in receipts.values()} - set(known))
        second = self._read_batch(
            [(("eth_getBlockByNumber", [hex(number), False]), header_at(number)) for number in numbers]
        )
        headers = {
            number: cast(BlockHeader, header)
            for number, header in zip([*known, *numbers], [*at_heights, *second], strict=True)
            if header is not None
        }
        return ReceiptsAndHeaders(head, receipts, headers)

    def known(self, transaction_hashes: Collection[str]) -> frozenset[str]:
        """Return those of the transactions that the node has, in its pool or in a block, by one batched request."""
        wanted = list(dict.fromkeys(transaction_hashes))
        found = self._read_batch([(("eth_getTransactionByHash", [each]), _value_of(each)) for each in wanted])
        return frozenset(each for each, value in zip(wanted, found, strict=True) if value is not None)

    def block_logs(self, block_hash: str, addresses: Sequence[str], events: Sequence[str]) -> list[Log]:
        """Return one block's logs of some contracts and topic0s, in log order, by the block's hash (EIP-234).

        Raises ChainUnavailable also for a block that the node no longer has.
        """
        query = {"blockHash": block_hash, "address": list(addresses), "topics": [list(events)]}

        def logs(value: object) -> list[Log]:
            found = [read_log(wire.member(raw, "log"), self.chain.chain_id) for raw in wire.items(value, "logs")]
            if any(log.block_hash != block_hash for log in found):
                raise wire.MalformedAnswer(f"logs: some are of another block than {block_hash}")
            return sorted(found, key=lambda log: log.log_index)

        return self._read("eth_getLogs", [query], logs)

    def balance(self, address: str, block: int | None = None) -> int:
        """Return an account's native coin, wei, after `block` (the newest when None)."""
        return self._read("eth_getBalance", [address, _at(block)], lambda value: wire.quantity(value, "balance"))

    def balances(self, addresses: Collection[str], block_hash: str) -> dict[str, int]:
        """Return accounts' native coins, wei, after the block of that hash (EIP-1898), by one request.

        Raises ChainUnavailable also for a block that the node no longer has.
        """
        found = self.balances_at([(address, block_hash) for address in addresses])
        return {address: wei for (address, _), wei in found.items()}

    def balances_at(self, places: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the native coin, wei, of each (address, block hash) after that block (EIP-1898), by one request.

        Raises ChainUnavailable also for a block that the node no longer has, or no longer keeps the state of.
        """
        wanted = list(dict.fromkeys(places))
        found = self._read_batch(
            [
                (
                    ("eth_getBalance", [address, {"blockHash": block_hash, "requireCanonical": True}]),
                    lambda value: wire.quantity(value, "balance"),
                )
                for address, block_hash in wanted
            ]
        )
        return {place: cast(int, wei) for place, wei in zip(wanted, found, strict=True)}

    def token_balance(self, token: str, address: str, block: int | None = None) -> int:
        """Return a token balance in its smallest unit, after `block` (the newest when None)."""
        request = CallRequest(to=token, data=erc20.encode_balance_of(address))
        return self._read(
            "eth_call",
            [request.as_json(), _at(block)],
            lambda value: erc20.decode_uint256(wire.data(value, "balanceOf")),
        )

    def token_balances(self, wanted: Collection[tuple[str, str]], block_hash: str) -> dict[tuple[str, str], int]:
        """Return the balance of each (token, address), smallest units, after the block of that hash (EIP-1898).

        One batched request. Raises ChainUnavailable also for a block that the node no longer has.
        """
        pairs = list(dict.fromkeys(wanted))
        pinned = {"blockHash": block_hash, "requireCanonical": True}
        found = self._read_batch(
            [
                (
                    ("eth_call", [CallRequest(to=token, data=erc20.encode_balance_of(address)).as_json(), pinned]),
                    lambda value: erc20.decode_uint256(wire.data(value, "balanceOf")),
                )
                for token, address in pairs
            ]
        )
        return {pair: cast(int, units) for pair, units in zip(pairs, found, strict=True)}

    def transfers_to(
        self, tokens: Sequence[str], recipients: Sequence[str], first: int, last: int
    ) -> list[TransferLog]:
        """Return the Transfers of some tokens to some addresses in the blocks first to last, in the chain's order.

        Nodes limit how many blocks and addresses one question may name; the caller keeps to few.
        """
        topics = [TRANSFER_TOPIC, None, ["0x" + address[2:].lower().rjust(64, "0") for address in recipients]]
        query = {"address": list(tokens), "topics": topics, "fromBlock": hex(first), "toBlock": hex(last)}
        return self._read(
            "eth_getLogs",
            [query],
            lambda value: [
                read_transfer(wire.member(raw, "log"), self.chain.chain_id) for raw in wire.items(value, "logs")
            ],
        )

    def nonce(self, address: str, block: _Nonce | int = "latest") -> int:
        """Return how many transactions an account has sent: mined ones (up to a block's number, when one is
        given), or with those in the node's pool.
        """
        return self._read(
            "eth_getTransactionCount",
            [address, hex(block) if isinstance(block, int) else block],
            lambda value: wire.quantity(value, "nonce"),
        )

    def fees(self) -> tuple[int, int]:
        """Return (the newest block's base fee, the priority fee the node suggests), wei per gas (EIP-1559).

        Both are a node's word: the caller caps them.
        """
        head, priority = self._read_batch(
            [
                (("eth_getBlockByNumber", ["latest", False]), read_header),
                (("eth_maxPriorityFeePerGas", []), lambda value: wire.quantity(value, "priorityFee")),
            ]
        )
        base_fee = cast(BlockHeader, head).base_fee
        if base_fee is None:
            raise self._unavailable("its blocks carry no baseFeePerGas; the fleet needs EIP-1559")
        return base_fee, cast(int, priority)

    def estimate_gas(self, request: CallRequest) -> int:
        """Return the gas limit the node finds sufficient. Raises ExecutionReverted."""
        return self._read("eth_estimateGas", [request.as_json()], lambda value: wire.quantity(value, "gas"))

    def estimates(self, requests: Sequence[CallRequest]) -> list[int | ExecutionReverted]:
        """Return the gas limit of each request, or how it reverted, by one batched request."""
        return self._read_batch_or_reverted(
            [
                (("eth_estimateGas", [request.as_json()]), lambda value: wire.quantity(value, "gas"))
                for request in requests
            ]
        )

    def accounts(self, addresses: Collection[str]) -> dict[str, AccountState]:
        """Return balance and nonce of each account at the newest block, by one batched request."""
        wanted = list(dict.fromkeys(addresses))
        calls: list[tuple[Call, Callable[[object], int]]] = []
        for address in wanted:
            for method in ("eth_getBalance", "eth_getTransactionCount"):
                calls.append(((method, [address, "latest"]), lambda value: wire.quantity(value, "account")))
        values = cast(list[int], self._read_batch(calls))
        return {address: AccountState(values[2 * place], values[2 * place + 1]) for place, address in enumerate(wanted)}

    def call(self, request: CallRequest, block: int | None = None) -> bytes:
        """Return what a call answers after `block` (the newest when None). Raises ExecutionReverted."""
        return self._read("eth_call", [request.as_json(), _at(block)], lambda value: wire.data(value, "call"))

    def code(self, address: str, block: int | None = None) -> bytes:
        """Return an account's code; 0xef0100 and 20 bytes for a delegated one (EIP-7702)."""
        return self._read("eth_getCode", [address, _at(block)], lambda value: wire.data(value, "code"))

    def codes(self, addresses: Collection[str]) -> dict[str, bytes]:
        """Return the code of each account at the newest block, by one batched request."""
        wanted = list(dict.fromkeys(addresses))
        found = self._read_batch(
            [(("eth_getCode", [address, "latest"]), lambda value: wire.data(value, "code")) for address in wanted]
        )
        return {address: cast(bytes, code) for address, code in zip(wanted, found, strict=True)}

    def send_raw(self, raw: bytes) -> str:
        """Broadcast a signed transaction once and return its hash, which is computed here, not taken over.

        Raises a SendRefused (AlreadyKnown, NonceTooLow, ReplacementUnderpriced, InsufficientFunds,
        Rejected) by the node's words, SendOutcomeUnknown when there was no usable answer.
        """
        transaction_hash = "0x" + keccak(raw).hex()
        try:
            answer = self._transport.send("eth_sendRawTransaction", ["0x" + raw.hex()])
            if answer.error is None and wire.hash32(answer.result, "transaction hash") != transaction_hash:
                raise wire.MalformedAnswer("it answered the hash of another transaction")
        except ChainUnavailable as error:
            outcome = error.reason
        except wire.MalformedAnswer as error:
            outcome = str(error)
        else:
            if answer.error is None:
                return transaction_hash
            refusal = node_errors.classify(answer.error.words)
            _logger.info(
                "transaction_refused",
                chain_id=self.chain.chain_id,
                transaction_hash=transaction_hash,
                refusal=refusal.__name__,
                words=answer.error.words,
            )
            raise refusal(self.chain.chain_id, self.chain.masked_url, answer.error.words)
        raise SendOutcomeUnknown(
            self.chain.chain_id,
            self.chain.masked_url,
            f"{outcome}; transaction {transaction_hash} may have been sent, look for it before anything else",
        )

    def _receipt_of(self, transaction_hash: str) -> Callable[[object], Receipt | None]:
        def read(value: object) -> Receipt | None:
            if value is None:
                return None
            raw = wire.member(value, "receipt")
            # Some nodes show a transaction of the pool as a receipt without block.
            if raw.get("blockHash") is None:
                return None
            receipt = read_receipt(raw, self.chain.chain_id)
            if receipt.transaction_hash != transaction_hash.lower():
                raise wire.MalformedAnswer(f"receipt: asked for {transaction_hash}, got another transaction's")
            return receipt

        return read


def _value_of(transaction_hash: str) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        if value is None:
            return None
        raw = wire.member(value, "transaction")
        if wire.hash32(raw.get("hash"), "hash") != transaction_hash.lower():
            raise wire.MalformedAnswer(f"transaction: asked for {transaction_hash}, got another one")
        return wire.quantity(raw.get("value"), "value")

    return read


def _at(block: int | None) -> str:
    return "latest" if block is None else hex(block)
