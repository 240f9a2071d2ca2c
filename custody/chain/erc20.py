"""Calldata of the few contract calls that the fleet and its buyers make.

An address or amount that does not fit its ABI type raises ValueError.
Sources: ERC-20; Request Network ERC20FeeProxy 0.2.0.
"""

from collections.abc import Sequence
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import EncodingError
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak


def selector(signature: str) -> bytes:
    """Return the 4 bytes that name a function, given as `name(type,...)` with canonical ABI types."""
    return keccak(text=signature)[:4]


TRANSFER: Final = selector("transfer(address,uint256)")
APPROVE: Final = selector("approve(address,uint256)")
BALANCE_OF: Final = selector("balanceOf(address)")
DECIMALS: Final = selector("decimals()")
TRANSFER_FROM_WITH_REFERENCE_AND_FEE: Final = selector(
    "transferFromWithReferenceAndFee(address,address,uint256,bytes,uint256,address)"
)
TRANSFER_WITH_REFERENCE_AND_FEE: Final = selector("transferWithReferenceAndFee(address,bytes,uint256,address)")
_TRANSFER_CALL_BYTES: Final = 4 + 2 * 32
_WORD: Final = 32


def encode_transfer(recipient: str, amount: int) -> bytes:
    """Return `transfer(recipient, amount)`; `amount` in the token's smallest unit."""
    return TRANSFER + _encode(["address", "uint256"], [recipient, amount])


def encode_approve(spender: str, amount: int) -> bytes:
    """Return `approve(spender, amount)`; `amount` in the token's smallest unit.

    Tether refuses a change from one non-zero allowance to another: set 0 first.
    """
    return APPROVE + _encode(["address", "uint256"], [spender, amount])


def encode_balance_of(owner: str) -> bytes:
    """Return `balanceOf(owner)`."""
    return BALANCE_OF + _encode(["address"], [owner])


def encode_transfer_from_with_reference_and_fee(
    *, token: str, recipient: str, amount: int, reference: bytes, fee_amount: int, fee_address: str
) -> bytes:
    """Return the ERC20FeeProxy's payment call; the fee is paid beside the amount, both in smallest units."""
    return TRANSFER_FROM_WITH_REFERENCE_AND_FEE + _encode(
        ["address", "address", "uint256", "bytes", "uint256", "address"],
        [token, recipient, amount, reference, fee_amount, fee_address],
    )


def encode_transfer_with_reference_and_fee(
    *, recipient: str, reference: bytes, fee_amount: int, fee_address: str
) -> bytes:
    """Return the EthereumFeeProxy's payment call; the transaction's value is amount and fee together, wei."""
    return TRANSFER_WITH_REFERENCE_AND_FEE + _encode(
        ["address", "bytes", "uint256", "address"], [recipient, reference, fee_amount, fee_address]
    )


def decode_transfer_call(calldata: bytes) -> tuple[ChecksumAddress, int]:
    """Return (recipient, amount in smallest units) of exactly one `transfer` call.

    Bytes behind the two arguments are refused: the token ignores them, so they could hide anything.
    Raises ValueError.
    """
    if len(calldata) != _TRANSFER_CALL_BYTES or calldata[:4] != TRANSFER or any(calldata[4:16]):
        raise ValueError(f"calldata: expected transfer(address,uint256) and nothing else, 0x{calldata.hex()[:80]}")
    return to_checksum_address(calldata[16:36]), int.from_bytes(calldata[36:])


def decode_uint256(answer: bytes) -> int:
    """Return the uint256 a call answered. Raises ValueError: an account without code answers nothing."""
    if len(answer) != _WORD:
        raise ValueError(f"expected one 32-byte word, got {len(answer)} bytes; is there a contract at this address?")
    return int(decode(["uint256"], answer)[0])


def _encode(types: Sequence[str], values: Sequence[object]) -> bytes:
    try:
        return encode(types, values)
    except EncodingError as error:
        raise ValueError(f"calldata: {error}") from error
