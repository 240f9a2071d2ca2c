"""What signed bytes say: fields, signer and hash of a raw transaction of type 2 or 4 (EIP-1559, EIP-7702).

Nothing is stored or sent that was not read back here and compared with its intent (design §2, rule 5).
"""

from dataclasses import dataclass
from typing import Any, Final, cast

import rlp
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException

from custody.chain.fee_bids import FeeBid, replaces

_SIGNATURE_FIELDS: Final = 3
_UNSIGNED_FIELDS: Final = {2: 9, 4: 10}
_TO: Final = 5


class SignedBytesDiffer(Exception):
    """Bytes are no transaction of ours, or another one than their intent. The message names the field."""


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A raw transaction's fields. Gas in gas, ``value`` in wei; ``authorizations`` is the list's own encoding."""

    type: int
    chain_id: int
    nonce: int
    bid: FeeBid
    gas_limit: int
    to: str
    value: int
    data: bytes
    authorizations: bytes
    sender: str
    hash: str

    @property
    def max_fee_wei(self) -> int:
        """The most it can cost for gas, wei."""
        return self.gas_limit * self.bid.max_fee


def hash_of(raw: bytes) -> str:
    """A signed transaction's hash, 0x and 64 hex digits."""
    return "0x" + keccak(raw).hex()


def read_signed(raw: bytes) -> SignedTransaction:
    """The fields of a signed transaction, its signer recovered. Raises SignedBytesDiffer."""
    try:
        kind = raw[0]
        count = _UNSIGNED_FIELDS[kind]
        fields = cast("list[Any]", rlp.decode(raw[1:], strict=True))
        if len(fields) != count + _SIGNATURE_FIELDS or len(fields[_TO]) != 20 or fields[8]:
            raise SignedBytesDiffer("fields: expected a call of type 2 or 4 with an empty access list")
        parity, r, s = (int.from_bytes(each) for each in fields[count:])
        signed = keccak(raw[:1] + bytes(cast("Any", rlp.encode(fields[:count]))))
        sender = Signature(vrs=(parity, r, s)).recover_public_key_from_msg_hash(signed).to_checksum_address()
        numbers = [int.from_bytes(fields[place]) for place in (0, 1, 2, 3, 4, 6)]
        data, authorizations = bytes(fields[7]), bytes(cast("Any", rlp.encode(fields[9]))) if kind == 4 else b""
    except (IndexError, KeyError, TypeError, ValueError, RLPException, BadSignature, ValidationError) as error:
        raise SignedBytesDiffer(
            f"bytes: expected a signed transaction of type 2 or 4 ({type(error).__name__})"
        ) from None
    chain_id, nonce, priority, max_fee, gas_limit, value = numbers
    return SignedTransaction(
        kind,
        chain_id,
        nonce,
        FeeBid(max_fee, priority),
        gas_limit,
        to_checksum_address(fields[_TO]),
        value,
        data,
        authorizations,
        sender,
        hash_of(raw),
    )


def require_replaces(new: SignedTransaction, old: SignedTransaction, *, is_cancel: bool = False) -> None:
    """R1: the same sender, chain and nonce, both fees at least 1.125 times; and the same call, unless it is the cancel.

    Raises SignedBytesDiffer naming the field.
    """
    same = ("chain_id", "nonce", "sender")
    for field in same if is_cancel else (*same, "type", "to", "value", "data", "authorizations"):
        if getattr(new, field) != getattr(old, field):
            raise SignedBytesDiffer(f"{field}: a replacement may change the fees alone")
    if is_cancel:
        require_cancel(new)
    if not replaces(new.bid, old.bid):
        raise SignedBytesDiffer(f"fees: {new.bid} does not replace {old.bid}; both must be 1.125 times as high")


def require_cancel(transaction: SignedTransaction) -> None:
    """A cancel is nothing from the sender to itself. Raises SignedBytesDiffer."""
    if (transaction.type, transaction.to, transaction.value, transaction.data) != (2, transaction.sender, 0, b""):
        raise SignedBytesDiffer("cancel: expected no value and no data from the sender to itself")
