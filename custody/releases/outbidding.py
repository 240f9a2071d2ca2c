"""The two transactions that may replace a payout on its nonce: itself with higher fees, and the cancel (R1). Pure.

Every digest of the nonce is outbid, since a signature of each may be on its way. Fees in wei per gas.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from custody.chain import fee_bids
from custody.chain.fee_bids import FeeBid
from custody.releases.payout import GAS_MARGIN_DENOMINATOR, GAS_MARGIN_NUMERATOR, FeeOverCeiling
from custody.trezor.transaction import UnsignedTransaction


def outbid(known: Iterable[UnsignedTransaction], *, base_fee: int, priority_fee: int) -> FeeBid:
    """Fees that replace every one of ``known``, and that the chain takes now."""
    bids = [FeeBid(each.max_fee_per_gas, each.max_priority_fee_per_gas) for each in known]
    return fee_bids.outbid(bids, base_fee=base_fee, priority_fee=priority_fee)


def payout_again(newest: UnsignedTransaction, fees: FeeBid, *, ceiling_wei: int) -> UnsignedTransaction:
    """The same payout (to, value, data, gas limit) at these fees. Raises FeeOverCeiling."""
    return _below(
        replace(newest, max_fee_per_gas=fees.max_fee, max_priority_fee_per_gas=fees.priority), "a new bid", ceiling_wei
    )


def cancel_of(
    newest: UnsignedTransaction, treasury: str, fees: FeeBid, *, gas: int, ceiling_wei: int
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


def _below(transaction: UnsignedTransaction, what: str, ceiling_wei: int) -> UnsignedTransaction:
    if transaction.max_total_fee_wei > ceiling_wei:
        raise FeeOverCeiling(
            f"fee_over_ceiling: {what} needs {transaction.gas_limit} gas at {transaction.max_fee_per_gas} wei to replace "
            f"what is out, {transaction.max_total_fee_wei} wei in all; the ceiling is {ceiling_wei}. Wait for the chain, "
            "or raise RELEASE_MAX_TOTAL_FEE_WEI."
        )
    return transaction
