"""The text that an approver signs on a device (R18), built from typed fields on the approver's own machine (R6)."""

from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import Final

from custody.chain.assets import to_amount
from custody.releases.intent import SHOWN_CHARACTERS, Intent
from custody.trezor.text_rows import COLUMNS, in_rows

VERB: Final = "APPROVE"
INSTRUCTION_CHARACTERS: Final = 8  # the last ones: a UUIDv7 begins with the time, which instructions share
RAW_UNITS_MARK: Final = " RAW"
"""Stands behind the instruction's number where the treasury's device will show smallest units (R2)."""
_NATIVE_DECIMALS: Final = 18
OUR_TREASURY: Final = "OUR NEW TREASURY"
"""What a drain's recipient is called: the active treasury, which the signed genesis and trust.toml name (R22)."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the approver's own machine calls the things of an intent (R4): never taken from a server."""

    chain: str
    symbol: str
    decimals: int
    native_symbol: str
    label: str
    """Of the recipient, in the signed address book."""


def approval_text(intent: Intent, names: Names) -> str:
    """At most 216 characters: verb and environment, chain, amount, recipient, label, instruction, hash, fee, expiry.

    Raises TextNotShowable for what does not fit or is not printable ASCII; nothing is ever cut, but the label's end.
    """
    fee = to_amount(intent.max_total_fee_wei, _NATIVE_DECIMALS)
    return in_rows(
        verb=f"{VERB} {intent.purpose[:3]} {intent.environment}",
        chain=f"{names.chain} {intent.chain_id}",
        amount=f"{_plain(to_amount(intent.amount_units, names.decimals))} {names.symbol}",
        recipient=intent.recipient,
        label=names.label[:COLUMNS],
        instruction=f"nr {str(intent.instruction_id)[-INSTRUCTION_CHARACTERS:]}{RAW_UNITS_MARK * intent.raw_units}{_many(intent)}",
        intent=f"# {intent.hash().hex()[:SHOWN_CHARACTERS]}",
        fee=f"fee<{_plain(fee)} {names.native_symbol}",
        expiry=intent.expires_at.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ"),
    )


def _many(intent: Intent) -> str:
    """How many payments a group pays for, beside its number in the same row (R23)."""
    return f" {len(intent.payments)} pay" if intent.shares else ""


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
