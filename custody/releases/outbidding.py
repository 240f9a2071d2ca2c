"""The fees that replace a transaction of the same nonce, and the two transactions that may (R1). Pure.

A node takes a replacement only if both fees are above the old ones by its own margin (a tenth, for most). Ours are an
eighth above every digest of the nonce, since a signature of each may be on its way. Fees in wei per gas.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from custody.releases.payout import BASE_FEE_MULTIPLE, GAS_MARGIN_DENOMINATOR, GAS_MARGIN_NUMERATOR, FeeOverCeiling
from custody.trezor.transaction import UnsignedTransaction

OUTBID_NUMERATOR: Final = 9  # both fees x 1.125 (R1)
OUTBID_DENOMINATOR: Final = 8


@dataclass(frozen=True, slots=True)
class Fees:
    """``max_fee`` >= ``priority``, wei per gas (EIP-1559)."""

    max_fee: int
    priority: int


def outbid(known: Iterable[UnsignedTransaction], *, base_fee: int, priority_fee: int) -> Fees:
    """Fees that replace every one of ``known``, and that the chain takes now."""
    found = tuple(known)
    priority = max(priority_fee, _raised(max((each.max_priority_fee_per_gas for each in found), default=0)))
    highest = _raised(max((each.max_fee_per_gas for each in found), default=0))
    return Fees(max(BASE_FEE_MULTIPLE * base_fee + priority, highest), priority)


def payout_again(newest: UnsignedTransaction, fees: Fees, *, ceiling_wei: int) -> UnsignedTransaction:
    """The same payout (to, value, data, gas limit) at these fees. Raises FeeOverCeiling."""
    return _below(
        replace(newest, max_fee_per_gas=fees.max_fee, max_priority_fee_per_gas=fees.priority), "a new bid", ceiling_wei
    )


def cancel_of(
    newest: UnsignedTransaction, treasury: str, fees: Fees, *, gas: int, ceiling_wei: int
) -> UnsignedTransaction:
    """Nothing from the treasury to itself on the same nonce; ``gas`` as the chain estimates it. Raises FeeOverCeiling."""
    cancel = UnsignedTransaction(
        chain_id=newest.chain_id,
        nonce=newest.nonce,
        max_priority_fee_per_gas=fees.priority,
        max_fee_per_gas=fees.max_fee,
        gas_limit=gas if gas == _PLAIN_GAS else gas * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR,
        to=treasury,
        value=0,
    )
    return _below(cancel, "the cancel", ceiling_wei)


_PLAIN_GAS: Final = 21_000  # a plain transfer costs exactly this; chains that charge more for their data ask for more


def _raised(fee: int) -> int:
    return -(-fee * OUTBID_NUMERATOR // OUTBID_DENOMINATOR)


def _below(transaction: UnsignedTransaction, what: str, ceiling_wei: int) -> UnsignedTransaction:
    if transaction.max_total_fee_wei > ceiling_wei:
        raise FeeOverCeiling(
            f"fee_over_ceiling: {what} needs {transaction.gas_limit} gas at {transaction.max_fee_per_gas} wei to replace "
            f"what is out, {transaction.max_total_fee_wei} wei in all; the ceiling is {ceiling_wei}. Wait for the chain, "
            "or raise RELEASE_MAX_TOTAL_FEE_WEI."
        )
    return transaction
