"""The exact transaction that pays an instruction, and the check that stored bytes still are that one (R19).

Type 2, empty access list; for a token the 68-byte ``transfer`` and no value, for the chain's own coin the value
and no data. Amounts in smallest units, fees in wei.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from custody.chain.assets import NATIVE
from custody.chain.fee_bids import BASE_FEE_MULTIPLE
from custody.releases.rows import Instruction
from custody.trezor.transaction import TransactionError, UnsignedTransaction, encode_erc20_transfer

GAS_MARGIN_NUMERATOR: Final = 12  # the estimate x 1.2: another payout before this one may cost a fresh storage slot
GAS_MARGIN_DENOMINATOR: Final = 10


class FeeOverCeiling(Exception):
    """gas limit x max fee is above ``release_max_total_fee_wei``. The message says by how much."""


class BytesDiffer(Exception):
    """Stored unsigned bytes are not the transaction their instruction describes. The message names the field."""


@dataclass(frozen=True, slots=True)
class Call:
    """What the transaction does, before nonce and fees."""

    to: str
    value: int
    data: bytes


def call_of(instruction: Instruction) -> Call:
    """The call that pays an instruction. Raises TransactionError for a recipient that is no checksum address."""
    if instruction.token == NATIVE:
        return Call(instruction.recipient, instruction.amount_units, b"")
    return Call(instruction.token, 0, encode_erc20_transfer(instruction.recipient, instruction.amount_units))


def build(
    instruction: Instruction,
    *,
    nonce: int,
    gas_estimate: int,
    base_fee: int,
    priority_fee: int,
    ceiling_wei: int,
) -> UnsignedTransaction:
    """The unsigned transaction. Raises FeeOverCeiling (R19), TransactionError."""
    call = call_of(instruction)
    gas_limit = gas_estimate * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR
    transaction = UnsignedTransaction(
        chain_id=instruction.chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=BASE_FEE_MULTIPLE * base_fee + priority_fee,
        gas_limit=gas_limit,
        to=call.to,
        value=call.value,
        data=call.data,
    )
    if transaction.max_total_fee_wei > ceiling_wei:
        raise FeeOverCeiling(
            f"fee_over_ceiling: {gas_limit} gas at up to {transaction.max_fee_per_gas} wei is "
            f"{transaction.max_total_fee_wei} wei, the ceiling is {ceiling_wei}; wait for lower fees or raise "
            "RELEASE_MAX_TOTAL_FEE_WEI."
        )
    return transaction


def stored_transaction(instruction: Instruction) -> UnsignedTransaction:
    """The instruction's own stored bytes as a transaction, compared with the instruction field by field.

    Raises BytesDiffer, also when they were never stored.
    """
    if instruction.unsigned_bytes is None or instruction.nonce is None:
        raise BytesDiffer("unsigned bytes are missing")
    transaction = read_stored(
        instruction, instruction.unsigned_bytes, instruction.signing_hash, call_of, what="unsigned bytes"
    )
    if transaction.max_total_fee_wei != instruction.max_total_fee_wei:
        raise BytesDiffer("unsigned bytes: fee ceiling is not the instruction's")
    return transaction


def read_stored(
    instruction: Instruction, raw: bytes, signing_hash: bytes | None, call: Callable[[Instruction], Call], *, what: str
) -> UnsignedTransaction:
    """Stored bytes as the transaction that ``call`` makes of an instruction on its chain and nonce, field by field (R19).

    ``what`` names them in BytesDiffer, which is raised for the first field that is another one.
    """
    try:
        transaction = UnsignedTransaction.from_signing_bytes(raw)
        expected = call(instruction)
    except TransactionError as error:
        raise BytesDiffer(f"unsigned bytes: {error}") from error
    compared: tuple[tuple[str, object, object], ...] = (
        ("signing hash", transaction.signing_hash(), signing_hash),
        ("chain id", transaction.chain_id, instruction.chain_id),
        ("nonce", transaction.nonce, instruction.nonce),
        ("to", transaction.to, expected.to),
        ("value", transaction.value, expected.value),
        ("data", transaction.data, expected.data),
    )
    for field, found, wanted in compared:
        if found != wanted:
            raise BytesDiffer(f"{what}: {field} is not the instruction's")
    return transaction
