"""The three shapes that the keys agent signs; every other transaction is refused with a sentence (R8, R19, R20).

Pure: the bytes, who may be paid and the addresses are all given. An unsigned transaction is EIP-1559, its chain id above
zero, its access list empty and its encoding canonical already (``UnsignedTransaction.from_signing_bytes``).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

from custody.destinations.derivation import DerivationError
from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOP_UP_MAXIMUM_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
)
from custody.trezor import TransactionError, UnsignedTransaction, decode_erc20_transfer

Shape = Literal["token_sweep", "native_sweep", "top_up"]
"""A token transfer or the coin of a deposit address to the treasury; the gas payer's coin to a deposit address."""

NATIVE: Final = "native"


class ShapeRefused(Exception):
    """No key of the agent signs this. The message names the field and what was expected."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: ``transaction`` as ``shape`` of the deposit address at ``index``; ``treasury`` is the asker's."""

    shape: Shape
    index: int
    treasury: str
    transaction: UnsignedTransaction


@dataclass(frozen=True, slots=True)
class KnownChain:
    """What binds on one chain: where sweeps go, and the tokens (addresses) that are moved at all."""

    id: int
    treasury: str
    tokens: Collection[str]


def require_shape(asked: Asked, *, chain: KnownChain, address_at: Callable[[int], str]) -> None:
    """Raise ShapeRefused unless the transaction is the asked shape for the deposit address at that index.

    The asker's treasury must be the chain's own, so that two who disagree move nothing. Who signs follows from the
    shape: the deposit address a sweep, the gas payer a top-up.
    """
    transaction = asked.transaction
    if transaction.chain_id != chain.id:
        raise ShapeRefused(f"chain: expected {chain.id}, got {transaction.chain_id}")
    if asked.treasury != chain.treasury:
        raise ShapeRefused(f"treasury: {asked.treasury} is asked for, but {chain.treasury} binds on chain {chain.id}")
    _require_fees(transaction)
    try:
        destination = address_at(asked.index)
    except DerivationError as error:
        raise ShapeRefused(str(error)) from None
    if asked.shape == "top_up":
        _require_top_up(transaction, destination, asked.index)
    elif asked.shape == "native_sweep":
        if transaction.to != chain.treasury:
            raise ShapeRefused(f"to: expected the treasury {chain.treasury}, got {transaction.to}")
        if transaction.data or transaction.value == 0:
            raise ShapeRefused("native sweep: expected a value above zero and no data")
    else:
        _require_token_sweep(transaction, chain)


def _require_fees(transaction: UnsignedTransaction) -> None:
    if not 0 < transaction.gas_limit <= GAS_LIMIT_MAXIMUM:
        raise ShapeRefused(f"gas limit: expected at most {GAS_LIMIT_MAXIMUM}, got {transaction.gas_limit}")
    if not 0 < transaction.max_fee_per_gas <= MAX_FEE_PER_GAS_WEI:
        raise ShapeRefused(
            f"max fee: expected 1 to {MAX_FEE_PER_GAS_WEI} wei per gas, got {transaction.max_fee_per_gas}"
        )
    if transaction.max_total_fee_wei > TOTAL_FEE_MAXIMUM_WEI:
        raise ShapeRefused(
            f"total fee: expected at most {TOTAL_FEE_MAXIMUM_WEI} wei, got {transaction.max_total_fee_wei}"
        )


def _require_top_up(transaction: UnsignedTransaction, destination: str, index: int) -> None:
    if transaction.data:
        raise ShapeRefused("top-up: expected a plain value transfer without data")
    if transaction.to != destination:
        raise ShapeRefused(f"to: {transaction.to} is not the deposit address {index} of this seed ({destination})")
    if not 0 < transaction.value <= TOP_UP_MAXIMUM_WEI:
        raise ShapeRefused(f"top-up: expected 1 to {TOP_UP_MAXIMUM_WEI} wei, got {transaction.value}")


def _require_token_sweep(transaction: UnsignedTransaction, chain: KnownChain) -> None:
    if transaction.to == NATIVE or transaction.to not in chain.tokens:
        raise ShapeRefused(f"to: {transaction.to} is no token that is known on chain {chain.id}")
    if transaction.value != 0:
        raise ShapeRefused(f"value: expected 0 beside a token transfer, got {transaction.value} wei")
    try:
        recipient, amount = decode_erc20_transfer(transaction.data)
    except TransactionError as error:
        raise ShapeRefused(str(error)) from None
    if recipient != chain.treasury:
        raise ShapeRefused(f"recipient: expected the treasury {chain.treasury}, got {recipient}")
    if amount == 0:
        raise ShapeRefused("amount: expected more than zero")
