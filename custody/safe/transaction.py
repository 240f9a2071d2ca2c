"""The one shape of Safe transaction that the fleet hands to a Safe's owners (R16), and its EIP-712 hash.

Operation 0, no gas terms, no refund: a direct token transfer of 68 bytes, or the chain's own coin, or the rejection
that spends the same Safe nonce (R1). MultiSend, delegate calls and gas refunds cannot be expressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import is_checksum_address, to_checksum_address
from eth_utils.crypto import keccak

from custody.safe.contract import exec_transaction_call
from custody.trezor.transaction import TransactionError, decode_erc20_transfer

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage

ZERO: Final = "0x" + "0" * 40
CALL: Final = 0
"""The only operation; 1 is a delegate call, with which a Safe runs foreign code on its own coins."""
_UINT256_LIMIT: Final = 1 << 256
_UINT64_LIMIT: Final = 1 << 64
MAXIMUM_BYTES: Final = 1_024  # twelve words, an offset and 68 bytes of data are 576

_STORED_TYPES: Final = (
    "uint256", "address", "address", "uint256", "bytes", "uint8", "uint256", "uint256", "uint256", "address", "address",
    "uint256",
)  # fmt: skip
_TYPES: Final = {
    "EIP712Domain": (("uint256", "chainId"), ("address", "verifyingContract")),
    "SafeTx": (
        ("address", "to"), ("uint256", "value"), ("bytes", "data"), ("uint8", "operation"), ("uint256", "safeTxGas"),
        ("uint256", "baseGas"), ("uint256", "gasPrice"), ("address", "gasToken"), ("address", "refundReceiver"),
        ("uint256", "nonce"),
    ),
}  # fmt: skip


class SafeTransactionError(ValueError):
    """A field of a Safe transaction is not what the fleet signs. The message names it and what was expected."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"Safe transaction field {field!r}: expected {expected}")
        self.field = field


@dataclass(frozen=True, slots=True)
class SafeTransaction:
    """One transaction of the Safe ``safe``. ``value`` in wei; ``nonce`` is the Safe's own, not an account's.

    Raises SafeTransactionError when built with anything but a direct transfer or a rejection.
    """

    chain_id: int
    safe: str
    to: str
    value: int
    data: bytes
    nonce: int

    def __post_init__(self) -> None:
        if type(self.chain_id) is not int or not 1 <= self.chain_id < _UINT64_LIMIT:
            raise SafeTransactionError("chain_id", "an integer from 1 up to 2^64 less one")
        if type(self.nonce) is not int or not 0 <= self.nonce < _UINT64_LIMIT:
            raise SafeTransactionError("nonce", "an integer from 0 up to 2^64 less one")
        if type(self.value) is not int or not 0 <= self.value < _UINT256_LIMIT:
            raise SafeTransactionError("value", "an integer from 0 up to 2^256 less one")
        for field, address in (("safe", self.safe), ("to", self.to)):
            if not is_checksum_address(address) or address == ZERO:
                raise SafeTransactionError(field, "an EIP-55 checksum address other than zero")
        if self.to == self.safe:
            if self.value or self.data:
                raise SafeTransactionError("to", "another address than the Safe's, or a rejection: no value, no data")
        elif self.data:
            _require_transfer(self)
        elif not self.value:
            raise SafeTransactionError("value", "more than 0 where there is no token transfer")

    @property
    def is_rejection(self) -> bool:
        """Whether it only spends its nonce: nothing to the Safe itself."""
        return self.to == self.safe

    def rejection(self) -> "SafeTransaction":
        """What ends this one when it is executed first: the same Safe nonce, spent on nothing (R1)."""
        return SafeTransaction(self.chain_id, self.safe, self.safe, 0, b"", self.nonce)

    def call_fields(self) -> Sequence[object]:
        """The arguments of ``execTransaction`` before the signatures."""
        return (self.to, self.value, self.data, CALL, 0, 0, 0, ZERO, ZERO)

    def calldata(self, signatures: bytes) -> bytes:
        """The call of the Safe that executes it. ``signatures``: packed by custody.safe.signatures."""
        return exec_transaction_call(self.call_fields(), signatures)

    def typed_data(self) -> dict[str, Any]:
        """EIP-712 typed data: what a device shows field by field, and what the hash is computed from."""
        names = [name for _, name in _TYPES["SafeTx"]]
        values = [_readable(value) for value in (*self.call_fields(), self.nonce)]
        return {
            "types": {
                struct: [{"name": name, "type": kind} for kind, name in members] for struct, members in _TYPES.items()
            },
            "primaryType": "SafeTx",
            "domain": {"chainId": self.chain_id, "verifyingContract": self.safe},
            "message": dict(zip(names, values, strict=True)),
        }

    def hash(self) -> bytes:
        """The ``safeTxHash``, 32 bytes: what owners sign (EIP-712)."""
        signable = self._signable()
        return keccak(b"\x19" + signable.version + signable.header + signable.body)

    def _signable(self) -> "SignableMessage":
        from eth_account.messages import encode_typed_data  # loaded where a hash is needed

        return encode_typed_data(full_message=self.typed_data())

    def stored_bytes(self) -> bytes:
        """Every field in ABI encoding, chain and Safe before those of the SafeTx: what the fleet stores and hands out."""
        return encode(_STORED_TYPES, [self.chain_id, self.safe, *self.call_fields(), self.nonce])

    @classmethod
    def from_stored_bytes(cls, raw: bytes) -> Self:
        """Read stored bytes back, only in their one canonical form. Raises SafeTransactionError."""
        if len(raw) > MAXIMUM_BYTES:
            raise SafeTransactionError("bytes", f"at most {MAXIMUM_BYTES} of them")
        try:
            chain_id, safe, to, value, data, operation, *terms, nonce = decode(_STORED_TYPES, raw)
        except (DecodingError, OverflowError, ValueError) as error:
            raise SafeTransactionError("bytes", f"the ABI encoding of a SafeTx ({type(error).__name__})") from None
        if operation != CALL:
            raise SafeTransactionError("operation", "0, a call; a delegate call is never signed (R16)")
        if [term for term in terms if term not in (0, ZERO)]:
            raise SafeTransactionError("gas", "no gas terms, gas token or refund receiver: all zero (R16)")
        found = cls(chain_id, to_checksum_address(safe), to_checksum_address(to), value, bytes(data), nonce)
        if found.stored_bytes() != raw:
            raise SafeTransactionError("bytes", "the canonical encoding of its own fields")
        return found


def domain_separator(chain_id: int, safe: str) -> bytes:
    """What binds a hash to one chain and one Safe (EIP-712), 32 bytes; the Safe itself must say the same."""
    typehash = keccak(text="EIP712Domain(uint256 chainId,address verifyingContract)")
    return keccak(encode(["bytes32", "uint256", "address"], [typehash, chain_id, safe]))


def _readable(value: object) -> object:
    return "0x" + value.hex() if isinstance(value, bytes) else value


def _require_transfer(transaction: SafeTransaction) -> None:
    if transaction.value:
        raise SafeTransactionError("value", "0 beside a token transfer")
    try:
        decode_erc20_transfer(transaction.data)
    except TransactionError as error:
        raise SafeTransactionError("data", f"one direct token transfer ({error})") from None
