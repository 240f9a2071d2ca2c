"""The EIP-1559 transaction a treasury device signs, and the signature that comes back.

The fleet stores the unsigned bytes and takes only (y_parity, r, s) from a signer: `signed_raw` puts them into
those stored bytes, so a signer cannot change a field (R19). Sources: EIP-1559, EIP-2718, EIP-2 (low s),
EIP-2681 (nonce limit), EIP-55 (address checksum), ERC-20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

import rlp
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature as CurveSignature
from eth_keys.exceptions import BadSignature
from eth_utils.address import is_checksum_address, to_checksum_address
from eth_utils.crypto import keccak
from rlp.exceptions import RLPException

TRANSACTION_TYPE: Final = b"\x02"  # EIP-1559 under EIP-2718
UNSIGNED_FIELDS: Final = 9
LARGEST_LOW_S: Final = SECPK1_N // 2  # EIP-2: a higher s is the same signature in another shape
UINT64_LIMIT: Final = 1 << 64  # chain id on the Trezor wire; gas limit in every client
NONCE_LIMIT: Final = UINT64_LIMIT - 1  # EIP-2681
UINT256_LIMIT: Final = 1 << 256
SMALLEST_GAS_LIMIT: Final = 21_000  # the price of any transaction; less can never be mined
MAX_DATA_BYTES: Final = 131_072  # nodes refuse transactions over 128 KiB in their pools
ADDRESS_BYTES: Final = 20

TRANSFER_SELECTOR: Final = bytes.fromhex("a9059cbb")  # transfer(address,uint256)
TRANSFER_BYTES: Final = 68


class TransactionError(ValueError):
    """A transaction field is not what the fleet signs. Says the field and what was expected."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"transaction field {field!r}: expected {expected}")
        self.field = field


class SignatureError(ValueError):
    """A signature is outside what EIP-2 and EIP-1559 allow, or does not recover."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"signature field {field!r}: expected {expected}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Signature:
    """(y_parity, r, s) over a transaction's signing hash.

    y_parity is 0 or 1 (never 27, 28 or an EIP-155 v); r and s are integers of the curve's group with s in the
    lower half (EIP-2). Raises SignatureError when built with anything else, so a held Signature is well
    formed.
    """

    y_parity: int
    r: int
    s: int

    def __post_init__(self) -> None:
        if type(self.y_parity) is not int or self.y_parity not in (0, 1):
            raise SignatureError("y_parity", "the integer 0 or 1; v of 27, 28 or more is refused")
        if type(self.r) is not int or not 1 <= self.r < SECPK1_N:
            raise SignatureError("r", "an integer from 1 to the order of secp256k1 less one")
        if type(self.s) is not int or not 1 <= self.s <= LARGEST_LOW_S:
            raise SignatureError("s", "an integer from 1 to half the order of secp256k1 (EIP-2, low s)")


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """One EIP-1559 transaction before its signature; the access list is always empty (R19).

    Fees are wei per gas, value is wei, `to` is an EIP-55 checksum address (contracts are never created),
    data is raw bytes. Raises TransactionError when built with a field out of range.
    """

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas_limit: int
    to: str
    value: int
    data: bytes = b""

    def __post_init__(self) -> None:
        _require_int("chain_id", self.chain_id, 1, UINT64_LIMIT)
        _require_int("nonce", self.nonce, 0, NONCE_LIMIT)
        _require_int("max_priority_fee_per_gas", self.max_priority_fee_per_gas, 0, UINT256_LIMIT)
        _require_int("max_fee_per_gas", self.max_fee_per_gas, 0, UINT256_LIMIT)
        _require_int("gas_limit", self.gas_limit, SMALLEST_GAS_LIMIT, UINT64_LIMIT)
        _require_int("value", self.value, 0, UINT256_LIMIT)
        if self.max_priority_fee_per_gas > self.max_fee_per_gas:
            raise TransactionError("max_priority_fee_per_gas", "at most max_fee_per_gas (EIP-1559)")
        if not is_checksum_address(self.to):
            raise TransactionError("to", "an address of 20 bytes in EIP-55 checksum form")
        if type(self.data) is not bytes or len(self.data) > MAX_DATA_BYTES:
            raise TransactionError("data", f"bytes, at most {MAX_DATA_BYTES:,} of them")

    @property
    def max_total_fee_wei(self) -> int:
        """The most this transaction can cost in fees, in wei: gas_limit times max_fee_per_gas (R19)."""
        return self.gas_limit * self.max_fee_per_gas

    def signing_bytes(self) -> bytes:
        """The bytes whose keccak is signed: 0x02 || rlp(nine fields). These are what the fleet stores."""
        return TRANSACTION_TYPE + _encode(self._fields())

    def signing_hash(self) -> bytes:
        """keccak256 of `signing_bytes`, 32 bytes."""
        return keccak(self.signing_bytes())

    @classmethod
    def from_signing_bytes(cls, raw: bytes) -> Self:
        """Read stored unsigned bytes back, accepting only their one canonical form.

        Raises TransactionError for another type, damaged or trailing RLP, a number with leading zeros,
        a wrong count of fields, a contract creation, a filled access list, or a field out of range.
        """
        if raw[:1] != TRANSACTION_TYPE:
            raise TransactionError("type", "a first byte of 0x02 (EIP-1559)")
        try:
            decoded = cast("object", rlp.decode(raw[1:], strict=True))
        except RLPException as error:
            raise TransactionError("rlp", f"one well-formed RLP list ({type(error).__name__})") from error
        if not isinstance(decoded, list | tuple):
            raise TransactionError("rlp", "a list, found a string")
        fields = cast("list[object]", list(decoded))
        if len(fields) != UNSIGNED_FIELDS:
            raise TransactionError("rlp", f"{UNSIGNED_FIELDS} unsigned fields, found {len(fields)}")
        access_list = fields[8]
        if not isinstance(access_list, list | tuple) or len(cast("list[object]", access_list)) != 0:
            raise TransactionError("access_list", "an empty list (R19)")
        to = _require_bytes("to", fields[5])
        if len(to) != ADDRESS_BYTES:
            raise TransactionError("to", "20 bytes; the fleet never creates contracts")
        transaction = cls(
            chain_id=_read_int("chain_id", fields[0]),
            nonce=_read_int("nonce", fields[1]),
            max_priority_fee_per_gas=_read_int("max_priority_fee_per_gas", fields[2]),
            max_fee_per_gas=_read_int("max_fee_per_gas", fields[3]),
            gas_limit=_read_int("gas_limit", fields[4]),
            to=to_checksum_address(to),
            value=_read_int("value", fields[6]),
            data=_require_bytes("data", fields[7]),
        )
        # The last word on canonical form: whatever was accepted above must be these very bytes.
        if transaction.signing_bytes() != raw:
            raise TransactionError("rlp", "the canonical encoding of its own fields")
        return transaction

    def signed_raw(self, signature: Signature) -> bytes:
        """These fields with the signature: the bytes to broadcast (eth_sendRawTransaction)."""
        return TRANSACTION_TYPE + _encode([*self._fields(), signature.y_parity, signature.r, signature.s])

    def transaction_hash(self, signature: Signature) -> str:
        """The hash by which a chain knows the signed transaction: 0x and 64 hexadecimal digits."""
        return "0x" + keccak(self.signed_raw(signature)).hex()

    def recover(self, signature: Signature) -> str:
        """The checksum address whose key made this signature. Raises SignatureError when there is none."""
        return recover_signer(self.signing_hash(), signature)

    def _fields(self) -> list[object]:
        return [
            self.chain_id,
            self.nonce,
            self.max_priority_fee_per_gas,
            self.max_fee_per_gas,
            self.gas_limit,
            bytes.fromhex(self.to[2:]),
            self.value,
            self.data,
            [],
        ]


def recover_signer(digest: bytes, signature: Signature) -> str:
    """The checksum address that signed a 32-byte digest. Raises SignatureError when none can be recovered."""
    try:
        curve = CurveSignature(vrs=(signature.y_parity, signature.r, signature.s))
        return curve.recover_public_key_from_msg_hash(digest).to_checksum_address()
    except BadSignature as error:
        raise SignatureError("r", "a point of secp256k1; no key can have made this signature") from error


def message_hash(text: str) -> bytes:
    """The digest a device signs for a text (EIP-191, version 0x45, "personal message")."""
    body = text.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(body)).encode() + body)


def encode_erc20_transfer(recipient: str, amount: int) -> bytes:
    """Call data of `transfer(recipient, amount)`, amount in the token's smallest unit: 68 bytes.

    Raises TransactionError for a recipient that is no checksum address or an amount outside uint256.
    """
    if not is_checksum_address(recipient):
        raise TransactionError("recipient", "an address of 20 bytes in EIP-55 checksum form")
    _require_int("amount", amount, 0, UINT256_LIMIT)
    return TRANSFER_SELECTOR + bytes(12) + bytes.fromhex(recipient[2:]) + amount.to_bytes(32, "big")


def decode_erc20_transfer(data: bytes) -> tuple[str, int]:
    """(checksum recipient, amount in smallest units) of exactly `transfer(address,uint256)` call data (R19).

    Raises TransactionError for another selector, another length than 68 bytes, or a dirty address word.
    """
    if len(data) != TRANSFER_BYTES:
        raise TransactionError("data", f"{TRANSFER_BYTES} bytes of transfer(address,uint256)")
    if data[:4] != TRANSFER_SELECTOR:
        raise TransactionError("data", "the selector a9059cbb of transfer(address,uint256)")
    if any(data[4:16]):
        raise TransactionError("data", "12 zero bytes before the recipient")
    return to_checksum_address(data[16:36]), int.from_bytes(data[36:68], "big")


def _require_int(field: str, value: int, low: int, limit: int) -> None:
    if type(value) is not int or not low <= value < limit:
        shown = {UINT64_LIMIT: "2^64", NONCE_LIMIT: "2^64 - 1", UINT256_LIMIT: "2^256"}[limit]
        raise TransactionError(field, f"an integer of at least {low:,} and below {shown}")


def _require_bytes(field: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TransactionError(field, "a string, found a list")
    return value


def _read_int(field: str, value: object) -> int:
    raw = _require_bytes(field, value)
    if raw[:1] == b"\x00":
        raise TransactionError(field, "a number without leading zeros")
    return int.from_bytes(raw, "big")


def _encode(fields: Sequence[object]) -> bytes:
    return cast("bytes", rlp.encode(fields))
