"""EIP-7702: what an account signs to run another's code, and the transaction that carries such signatures (type 4).

An authorization binds chain, delegate and the account's nonce, and neither fees nor sender: whoever has it may carry it.
Chain id 0 would be valid on every chain and is refused here. Sources: EIP-7702, EIP-1559, EIP-2718.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

import rlp
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from rlp.exceptions import RLPException

from custody.trezor import Signature, SignatureError, TransactionError, UnsignedTransaction
from custody.trezor.transaction import recover_signer

SET_CODE_TYPE: Final = b"\x04"
DELEGATION_PREFIX: Final = bytes.fromhex("ef0100")
AUTHORIZATIONS_MAXIMUM: Final = 250  # 300 fit into 40 kB and the gas of EIP-7825; one failure must stay cheap

_MAGIC: Final = b"\x05"
_FIELDS: Final = 10
_TUPLE_FIELDS: Final = 6


@dataclass(frozen=True, slots=True)
class Authorization:
    """``nonce``: the authority's current one. Raises TransactionError for chain id 0 or a field out of range."""

    chain_id: int
    delegate: str
    nonce: int

    def __post_init__(self) -> None:
        if not 0 < self.chain_id < 1 << 64:
            raise TransactionError("authorization chain_id", "the chain's own id; 0 would be valid everywhere")
        if not 0 <= self.nonce < (1 << 64) - 1:
            raise TransactionError("authorization nonce", "an integer of at least 0 and below 2^64 - 1")
        if self.delegate != to_checksum_address(self.delegate):
            raise TransactionError("authorization delegate", "an address in EIP-55 checksum form")

    def digest(self) -> bytes:
        """What the authority's key signs, 32 bytes."""
        return keccak(_MAGIC + _encode([self.chain_id, to_canonical_address(self.delegate), self.nonce]))


@dataclass(frozen=True, slots=True)
class SignedAuthorization:
    """One tuple of an authorization list."""

    authorization: Authorization
    signature: Signature

    @property
    def authority(self) -> str:
        """Whose account it delegates. Raises SignatureError."""
        return recover_signer(self.authorization.digest(), self.signature)

    def as_json(self) -> dict[str, str]:
        """As nodes take it in ``authorizationList``."""
        return {
            "chainId": hex(self.authorization.chain_id),
            "address": self.authorization.delegate,
            "nonce": hex(self.authorization.nonce),
            "yParity": hex(self.signature.y_parity),
            "r": hex(self.signature.r),
            "s": hex(self.signature.s),
        }


@dataclass(frozen=True, slots=True)
class SetCodeTransaction:
    """``call`` as a type-4 transaction with its tuples, 1 to AUTHORIZATIONS_MAXIMUM. Raises TransactionError."""

    call: UnsignedTransaction
    authorizations: tuple[SignedAuthorization, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.authorizations) <= AUTHORIZATIONS_MAXIMUM:
            raise TransactionError("authorization_list", f"1 to {AUTHORIZATIONS_MAXIMUM} tuples")

    def signing_bytes(self) -> bytes:
        """The bytes whose keccak is signed: 0x04 and rlp of ten fields."""
        return SET_CODE_TYPE + _encode(self._fields())

    def signing_hash(self) -> bytes:
        """keccak256 of ``signing_bytes``."""
        return keccak(self.signing_bytes())

    def signed_raw(self, signature: Signature) -> bytes:
        """The bytes to broadcast."""
        return SET_CODE_TYPE + _encode([*self._fields(), signature.y_parity, signature.r, signature.s])

    def recover(self, signature: Signature) -> str:
        """Whose key made this signature. Raises SignatureError."""
        return recover_signer(self.signing_hash(), signature)

    @classmethod
    def from_signing_bytes(cls, raw: bytes) -> Self:
        """Read unsigned bytes back in their one canonical form. Raises TransactionError."""
        if raw[:1] != SET_CODE_TYPE:
            raise TransactionError("type", "a first byte of 0x04 (EIP-7702)")
        try:
            fields = cast("Sequence[object]", rlp.decode(raw[1:], strict=True))
            if len(fields) != _FIELDS:
                raise TransactionError("rlp", f"{_FIELDS} unsigned fields, found {len(fields)}")
            # The first nine fields are those of EIP-1559, and read as such.
            call = UnsignedTransaction.from_signing_bytes(b"\x02" + _encode(list(fields[:9])))
            made = cls(call, tuple(_tuple(each) for each in cast("Sequence[Sequence[bytes]]", fields[9])))
        except (RLPException, SignatureError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, TransactionError):
                raise
            raise TransactionError("rlp", f"a well-formed EIP-7702 transaction ({type(error).__name__})") from None
        if made.signing_bytes() != raw:
            raise TransactionError("rlp", "the canonical encoding of its own fields")
        return made

    def _fields(self) -> list[object]:
        call = self.call
        return [
            call.chain_id,
            call.nonce,
            call.max_priority_fee_per_gas,
            call.max_fee_per_gas,
            call.gas_limit,
            to_canonical_address(call.to),
            call.value,
            call.data,
            [],
            [
                [
                    each.authorization.chain_id,
                    to_canonical_address(each.authorization.delegate),
                    each.authorization.nonce,
                    each.signature.y_parity,
                    each.signature.r,
                    each.signature.s,
                ]
                for each in self.authorizations
            ],
        ]


PayerTransaction = UnsignedTransaction | SetCodeTransaction
"""What the gas payer signs for a batch."""


def read_payer_transaction(raw: bytes) -> PayerTransaction:
    """Unsigned bytes of either type. Raises TransactionError."""
    if raw[:1] == SET_CODE_TYPE:
        return SetCodeTransaction.from_signing_bytes(raw)
    return UnsignedTransaction.from_signing_bytes(raw)


def call_of(transaction: PayerTransaction) -> UnsignedTransaction:
    """Its call, fees and nonce, without the tuples."""
    return transaction.call if isinstance(transaction, SetCodeTransaction) else transaction


def _tuple(fields: Sequence[bytes]) -> SignedAuthorization:
    if len(fields) != _TUPLE_FIELDS:
        raise TransactionError("authorization_list", f"tuples of {_TUPLE_FIELDS} fields")
    chain_id, delegate, nonce, y_parity, r, s = fields
    return SignedAuthorization(
        Authorization(int.from_bytes(chain_id), to_checksum_address(delegate), int.from_bytes(nonce)),
        Signature(int.from_bytes(y_parity), int.from_bytes(r), int.from_bytes(s)),
    )


def _encode(fields: list[object]) -> bytes:
    return cast("bytes", rlp.encode(fields))
