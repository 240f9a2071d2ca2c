"""Calldata of the batcher, and what its simulation answers. An address that is none raises ValueError."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError

from custody.chain.addresses import ZERO_ADDRESS
from custody.chain.assets import NATIVE
from custody.chain.erc20 import selector

OPERATORS_MAXIMUM: Final = 16  # OPERATORS_MAXIMUM of SweepBatcher.sol

SWEEP_MANY: Final = selector("sweepMany(address,address[],uint64)")
DEPLOY_AND_SWEEP_MANY: Final = selector("deployAndSweepMany(address,bytes32[],uint64)")
SET_OPERATORS: Final = selector("setOperators(address[])")
OPERATORS: Final = selector("operators()")


class Outcome(IntEnum):
    """What the batcher says became of one address, in a simulation; what moved, only Transfer logs say."""

    EMPTY = 0
    SWEPT = 1
    REFUSED = 2
    FOREIGN_CODE = 3


class OutcomesMalformed(ValueError):
    """The batcher answered what it never answers."""


def sweep_many_call(token: str, destinations: Sequence[str], gas_each: int) -> bytes:
    """``sweepMany``: sweep a token (or ``native``) from delegated addresses and forwarders that are there.

    ``gas_each``: gas that one address may take at most. The batcher reverts the whole batch rather than give one
    less, so the transaction's gas limit must hold ``gas_each`` for the last one too: estimate it, on the real calldata.
    """
    return SWEEP_MANY + _encode(["address", "address[]", "uint64"], [_asset(token), list(destinations), gas_each])


def deploy_and_sweep_many_call(token: str, salts: Sequence[bytes], gas_each: int) -> bytes:
    """``deployAndSweepMany``: the same for forwarders, by their 32-byte salts; makes those that are not there yet."""
    return DEPLOY_AND_SWEEP_MANY + _encode(["address", "bytes32[]", "uint64"], [_asset(token), list(salts), gas_each])


def set_operators_call(operators: Sequence[str]) -> bytes:
    """``setOperators``: replace all operators, in the ascending order that the batcher asks for. From the treasury alone.

    Raises ValueError for one that is named twice, or more than OPERATORS_MAXIMUM.
    """
    ordered = sorted(operators, key=lambda address: int(address, 16))
    if len({address.lower() for address in ordered}) != len(ordered):
        raise ValueError("operators: one is named twice")
    if len(ordered) > OPERATORS_MAXIMUM:
        raise ValueError(f"operators: expected at most {OPERATORS_MAXIMUM}, got {len(ordered)}")
    return SET_OPERATORS + _encode(["address[]"], [ordered])


def read_outcomes(answer: bytes, count: int) -> list[Outcome]:
    """What eth_call of either sweep answered, one Outcome an address in their order. Raises OutcomesMalformed."""
    try:
        [found] = decode(["bytes"], answer)
        outcomes = [Outcome(value) for value in found]
    except (DecodingError, ValueError) as error:
        raise OutcomesMalformed(f"the batcher's answer cannot be read: {error}") from None
    if len(outcomes) != count:
        raise OutcomesMalformed(f"the batcher answered for {len(outcomes)} addresses, {count} were asked")
    return outcomes


def _asset(token: str) -> str:
    return ZERO_ADDRESS if token == NATIVE else token


def _encode(types: Sequence[str], values: Sequence[object]) -> bytes:
    try:
        return encode(types, values)
    except EncodingError as error:
        raise ValueError(f"calldata: {error}") from error
