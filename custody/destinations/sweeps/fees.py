"""What a sweep may pay for gas. Prices in wei per gas (EIP-1559); a node's word is capped here."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from custody.chain.fee_bids import BASE_FEE_MULTIPLE, FeeBid, outbid
from custody.settings.gas import (
    GAS_LIMIT_MAXIMUM,
    GWEI,
    MAX_FEE_PER_GAS_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
    GasSettings,
)

__all__ = [
    "BATCH_GAS_LIMIT_MAXIMUM",
    "GAS_LIMIT_MAXIMUM",
    "GWEI",
    "MAX_FEE_PER_GAS_WEI",
    "TOP_UP_MAXIMUM_WEI",
    "TOTAL_FEE_MAXIMUM_WEI",
    "FeeQuote",
    "FeesTooHigh",
    "GasTerms",
    "batch_gas_limit_for",
    "gas_limit_for",
]

DEFAULT_GAS: Final = GasSettings()
GAS_LIMIT_PERCENT: Final = 110  # over the estimate: state may change between estimate and block
BATCH_GAS_LIMIT_MAXIMUM: Final = 16_000_000  # below 16,777,216, the most of any transaction (EIP-7825)
TOP_UP_MAXIMUM_WEI: Final = TOTAL_FEE_MAXIMUM_WEI  # a destination never needs more than one transfer's whole fee


class FeesTooHigh(Exception):
    """Gas costs more than the fleet pays now; the sweep waits. The message has the numbers."""


@dataclass(frozen=True, slots=True)
class GasTerms:
    """Gas limit (gas) and EIP-1559 prices (wei per gas) of one transaction."""

    gas_limit: int
    max_fee: int
    max_priority_fee: int

    @property
    def cost(self) -> int:
        """The most the transaction can cost for gas, wei."""
        return self.gas_limit * self.max_fee


@dataclass(frozen=True, slots=True)
class FeeQuote:
    """The newest block's base fee and the priority fee to offer, wei per gas."""

    base_fee: int
    priority_fee: int
    caps: GasSettings = DEFAULT_GAS

    @classmethod
    def capped(cls, base_fee: int, priority_fee: int, caps: GasSettings = DEFAULT_GAS) -> "FeeQuote":
        """Cap what a node suggests. Raises FeesTooHigh if even the next block costs more than the cap."""
        quote = cls(base_fee, min(priority_fee, caps.max_priority_fee_wei), caps)
        if quote.least_fee > caps.max_fee_per_gas_wei:
            raise FeesTooHigh(
                f"gas at {quote.least_fee} wei is above the cap of {caps.max_fee_per_gas_wei} wei per gas"
            )
        return quote

    @property
    def least_fee(self) -> int:
        """The max fee that the next block still takes: the base fee rises by at most 1/8 a block (EIP-1559)."""
        return self.base_fee + -(-self.base_fee // 8) + self.priority_fee

    @property
    def max_fee(self) -> int:
        """The max fee to offer: room for the base fee to double."""
        return min(BASE_FEE_MULTIPLE * self.base_fee + self.priority_fee, self.caps.max_fee_per_gas_wei)

    def max_fee_for(self, gas_limit: int) -> int:
        """The max fee to offer for so much gas. Raises FeesTooHigh if the whole fee is then above its cap."""
        total = self.caps.total_fee_maximum_wei
        max_fee = min(self.max_fee, total // gas_limit)
        if max_fee < self.least_fee:
            raise FeesTooHigh(f"{gas_limit} gas at {self.least_fee} wei cost more than the cap of {total} wei")
        return max_fee

    def outbidding(self, known: Iterable[FeeBid], gas_limit: int) -> GasTerms:
        """Terms that replace every one of ``known`` on their nonce: 1.125 times both fees, and what the next block takes.

        Raises FeesTooHigh where that is above a cap: what is out then waits for the chain.
        """
        bids = tuple(known)
        wished = outbid(bids, base_fee=self.base_fee, priority_fee=self.priority_fee)
        least = max(outbid(bids, base_fee=0, priority_fee=self.priority_fee).max_fee, self.least_fee)
        most = min(self.caps.max_fee_per_gas_wei, self.caps.total_fee_maximum_wei // gas_limit)
        if least > most:
            raise FeesTooHigh(f"a replacement needs {least} wei per gas, the cap is {most}")
        return GasTerms(gas_limit, min(wished.max_fee, most), wished.priority)

    def terms(self, gas_limit: int, affordable_wei: int | None = None) -> GasTerms | None:
        """Terms at the wished max fee, or at what ``affordable_wei`` pays if the next block takes that; else None.

        Raises FeesTooHigh as ``max_fee_for``.
        """
        max_fee = self.max_fee_for(gas_limit)
        if affordable_wei is not None:
            max_fee = min(max_fee, affordable_wei // gas_limit)
        if max_fee < self.least_fee:
            return None
        return GasTerms(gas_limit, max_fee, min(self.priority_fee, max_fee))


def gas_limit_for(estimate: int) -> int:
    """The gas limit for an estimate: 110 % of it, rounded up. Raises FeesTooHigh above GAS_LIMIT_MAXIMUM."""
    limit = -(-estimate * GAS_LIMIT_PERCENT // 100)
    if limit > GAS_LIMIT_MAXIMUM:
        raise FeesTooHigh(f"a transfer that needs {estimate} gas is refused; at most {GAS_LIMIT_MAXIMUM}")
    return limit


def batch_gas_limit_for(estimate: int) -> int:
    """The gas limit of a batch whose real calldata needs ``estimate``. Raises FeesTooHigh above BATCH_GAS_LIMIT_MAXIMUM."""
    limit = -(-estimate * GAS_LIMIT_PERCENT // 100)
    if limit > BATCH_GAS_LIMIT_MAXIMUM:
        raise FeesTooHigh(f"a batch that needs {estimate} gas is refused; at most {BATCH_GAS_LIMIT_MAXIMUM}")
    return limit
