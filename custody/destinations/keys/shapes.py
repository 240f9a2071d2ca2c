"""The four shapes that the keys agent signs; every other transaction is refused with a sentence (R8, R19, R20).

Pure: the bytes, who may be paid and the addresses are all given. An unsigned transaction is EIP-1559, its chain id above
zero, its access list empty and its encoding canonical already (``UnsignedTransaction.from_signing_bytes``).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from custody.destinations.derivation import DerivationError
from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOP_UP_MAXIMUM_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
)
from custody.trezor import TransactionError, UnsignedTransaction, decode_erc20_transfer

Shape = Literal["token_sweep", "native_sweep", "top_up", "cancel"]
"""A token transfer or the coin of a deposit address to the treasury; a gas payer's coin to a deposit address; nothing from a
gas payer to itself, which spends a nonce."""

NATIVE: Final = "native"
ACCOUNTS_MAXIMUM: Final = 8  # one is active; the others are drained and then closed
PAYERS_MAXIMUM: Final = 8  # gas payers; each has a nonce lane of its own on every chain
PAYER_SHAPES: Final[frozenset[Shape]] = frozenset(
    {"top_up", "cancel"}
)  # signed by a gas payer, not by a deposit address


CANCEL_GAS_MAXIMUM: Final = (
    250_000  # 21,000; chains that charge the bytes' storage ask for more, the dearest known 204,600
)


class ShapeRefused(Exception):
    """No key of the agent signs this. The message names the field and what was expected."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: ``transaction`` as ``shape`` of the deposit address at ``index`` of ``account`` (its fingerprint, 0x and
    8 hex digits); ``treasury`` is the asker's; ``payer`` the gas payer that signs, None where the deposit address does.

    A cancel has no deposit address: its account and index are None.
    """

    shape: Shape
    account: str | None
    index: int | None
    treasury: str
    transaction: UnsignedTransaction
    payer: str | None = None


@dataclass(frozen=True, slots=True)
class KnownChain:
    """What binds on one chain: where sweeps go, and the tokens (addresses) that are moved at all."""

    id: int
    treasury: str
    tokens: Collection[str]
    former: Mapping[str, str] = field(default_factory=dict[str, str])
    """Treasuries that this one took the place of, with their state, for a sentence that says so (R22)."""


def require_shape(asked: Asked, *, chain: KnownChain, address_at: Callable[[str, int], str]) -> None:
    """Raise ShapeRefused unless the transaction is the asked shape for the deposit address at that index.

    ``address_at``: the deposit address of an account's index, which may raise ShapeRefused or DerivationError. The
    asker's treasury must be the chain's own, so that two who disagree move nothing. Who signs follows from the shape:
    the deposit address a sweep, the named gas payer a top-up and a cancel.
    """
    transaction = asked.transaction
    if transaction.chain_id != chain.id:
        raise ShapeRefused(f"chain: expected {chain.id}, got {transaction.chain_id}")
    if asked.treasury in chain.former:
        raise ShapeRefused(
            f"treasury: {asked.treasury} is {chain.former[asked.treasury]}: no sweep goes there any more, {chain.treasury} took "
            f"its place on chain {chain.id} (R22)"
        )
    if asked.treasury != chain.treasury:
        raise ShapeRefused(f"treasury: {asked.treasury} is asked for, but {chain.treasury} binds on chain {chain.id}")
    _require_fees(transaction)
    if (asked.payer is None) == (asked.shape in PAYER_SHAPES):
        raise ShapeRefused(
            f"payer: a {asked.shape} is signed by {'a gas payer' if asked.payer is None else 'no payer'}"
        )
    if asked.shape == "cancel":
        _require_cancel(asked)
        return
    if asked.account is None or asked.index is None:
        raise ShapeRefused(f"account, index: expected the deposit address of a {asked.shape}")
    try:
        destination = address_at(asked.account, asked.index)
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


def _require_cancel(asked: Asked) -> None:
    """R1: a nonce that is spent on nothing. It can move no coin, and costs gas alone."""
    transaction = asked.transaction
    if asked.account is not None or asked.index is not None:
        raise ShapeRefused("account, index: a cancel has no deposit address")
    if transaction.to != asked.payer:
        raise ShapeRefused(f"to: expected the payer {asked.payer} itself, got {transaction.to}")
    if transaction.data or transaction.value != 0:
        raise ShapeRefused("cancel: expected no value and no data")
    if transaction.gas_limit > CANCEL_GAS_MAXIMUM:
        raise ShapeRefused(
            f"gas limit: expected at most {CANCEL_GAS_MAXIMUM} for a cancel, got {transaction.gas_limit}"
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
