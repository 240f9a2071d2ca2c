"""One (chain, treasury, nonce) has one intent, for ever (R1); this machine holds the fleet to it (R4)."""

from collections.abc import Sequence
from typing import Final

from custody.safe import SafeTransaction
from custody.trezor.transaction import UnsignedTransaction
from workers.signer.journal import JournalRefused, is_cancel
from workers.signer.journal_records import Asked

_STEP: Final = (9, 8)
"""A replacement raises both fees to at least 9/8 of what was signed: 1.125 times, what nodes ask for and a bit."""


def require_one_intent(
    transaction: UnsignedTransaction | SafeTransaction, instruction: str, treasury: str, earlier: Sequence[Asked]
) -> None:
    """Raise JournalRefused when the transaction is another intent than the one its nonce was signed for.

    ``earlier``: everything this machine asked of the treasury on that chain. Legal are the very same bytes, a fee
    replacement (same to, value and data, both fees at least 1.125 times the highest signed ones), and the cancel. A Safe's
    owners sign no fees: the same SafeTx, or the rejection of its nonce.
    """
    for each in earlier:
        if (
            each.instruction == instruction
            and each.transaction.nonce != transaction.nonce
            and not is_cancel(transaction, treasury)
        ):
            raise JournalRefused(
                f"Instruction {instruction} was signed here with nonce {each.transaction.nonce} on {each.at[:16]} and is "
                f"now shown with nonce {transaction.nonce}: both could be mined. Nothing was signed; tell the custody team."
            )
    same_nonce = [each for each in earlier if each.transaction.nonce == transaction.nonce]
    payouts = [each for each in same_nonce if not is_cancel(each.transaction, treasury)]
    if any(each.transaction == transaction for each in same_nonce) or is_cancel(transaction, treasury):
        return
    for each in same_nonce:
        if each.instruction != instruction:
            raise JournalRefused(
                f"Nonce {transaction.nonce} was asked for here for instruction {each.instruction} on {each.at[:16]}. One "
                "nonce has one intent (R1). Nothing was signed; tell the custody team."
            )
    for each in payouts:
        signed = each.transaction
        if (signed.to, signed.value, signed.data) != (transaction.to, transaction.value, transaction.data):
            raise JournalRefused(
                f"Nonce {transaction.nonce} was signed here for instruction {each.instruction} on {each.at[:16]}, with "
                "another recipient, amount or data. One nonce has one intent (R1). Nothing was signed; tell the custody "
                "team."
            )
    bids = [each.transaction for each in payouts if isinstance(each.transaction, UnsignedTransaction)]
    highest_fee = max((bid.max_fee_per_gas for bid in bids), default=0)
    highest_tip = max((bid.max_priority_fee_per_gas for bid in bids), default=0)
    if (
        bids
        and isinstance(transaction, UnsignedTransaction)
        and not (
            _is_step(highest_fee, transaction.max_fee_per_gas)
            and _is_step(highest_tip, transaction.max_priority_fee_per_gas)
        )
    ):
        raise JournalRefused(
            f"Nonce {transaction.nonce} was signed here before; a replacement raises both fees to at least 1.125 times "
            f"{highest_fee} and {highest_tip} wei per gas (R1). Nothing was signed."
        )


def _is_step(before: int, now: int) -> bool:
    up, down = _STEP
    return now * down >= before * up
