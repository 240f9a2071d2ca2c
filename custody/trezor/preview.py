"""What a person is about to see on the device for a transaction, and the same in plain words.

Exact lines are claimed only for firmware whose screens are known (R2); for any other the values to compare
are given. Amounts are formatted from integers, never through a float.
"""

from __future__ import annotations

from typing import Final

from custody.trezor.readability import (
    KNOWN_FIRMWARE,
    NATIVE_DECIMALS,
    Unit,
    is_erc20_transfer,
    native_unit,
    token_unit,
)
from custody.trezor.transaction import UnsignedTransaction, decode_erc20_transfer

LINE_CHARACTERS: Final = 18  # where a Trezor One breaks an address or a fee
DATA_PAGE_BYTES: Final = 24
DATA_LINE_BYTES: Final = 8
DATA_PAGES: Final = 5
GWEI_DECIMALS: Final = 9
SMALLEST_SHOWN_IN_COINS: Final = 10**9  # below one gwei a Trezor One shows wei


def device_screens(
    transaction: UnsignedTransaction, model: str, firmware: str, defined: Unit | None = None
) -> list[str]:
    """One string a screen (lines joined by newlines), in the order in which the person confirms them.

    For model and firmware whose screens are known these are the exact texts, and a `Prompt.number` counts
    them from 1. A Trezor One cuts a line that is too long at the right edge; the text here is the whole one,
    see `why_amount_not_readable`. `defined` is the token's unit of a definition that goes along. For other devices one block says which values to compare.
    """
    if (model, firmware) not in KNOWN_FIRMWARE:
        return [_values_to_compare(transaction, model, firmware)]
    transfer = _transfer_of(transaction)
    native = native_unit(transaction.chain_id)
    if transfer is not None:
        recipient, amount = transfer
        screens = [_send_screen(recipient, *_amount(amount, token_unit(transaction.chain_id, transaction.to, defined)))]
    elif transaction.value:
        screens = [_send_screen(transaction.to, *_native_amount(transaction.value, native))]
    else:
        screens = [_send_screen(transaction.to, "message", "")]
    if transfer is None:
        screens += _data_screens(transaction.data)
    gwei = Unit("Gwei", GWEI_DECIMALS)
    return [
        *screens,
        _fee_screen("Maximum fee per gas", *_amount(transaction.max_fee_per_gas, gwei)),
        _fee_screen("Priority fee per gas", *_amount(transaction.max_priority_fee_per_gas, gwei)),
        _fee_screen("Maximum fee", *_native_amount(transaction.max_total_fee_wei, native)),
    ]


def human_lines(
    transaction: UnsignedTransaction,
    *,
    chain_name: str,
    native_symbol: str,
    token_symbol: str | None = None,
    token_decimals: int | None = None,
) -> list[str]:
    """The transaction in plain words: amount, token, recipient, chain, maximum fee, nonce.

    `token_symbol` and `token_decimals` come from the fleet's own registry; without them a token amount is
    shown in its smallest units and says so.
    """
    transfer = _transfer_of(transaction)
    fee = format_units(transaction.max_total_fee_wei, NATIVE_DECIMALS)
    if transfer is not None:
        recipient, amount = transfer
        if token_decimals is None:
            shown = f"{amount:,} smallest units of token {transaction.to}"
        else:
            shown = f"{format_units(amount, token_decimals)} {token_symbol or 'of token'} ({transaction.to})"
    else:
        recipient = transaction.to
        shown = f"{format_units(transaction.value, NATIVE_DECIMALS)} {native_symbol}"
    lines = [
        f"Amount     {shown}",
        f"Recipient  {recipient}",
        f"Chain      {chain_name} (id {transaction.chain_id})",
        f"Fee        at most {fee} {native_symbol}",
        f"Nonce      {transaction.nonce}",
    ]
    if transfer is None and transaction.data:
        lines.append(f"Data       {len(transaction.data):,} bytes: not a token transfer")
    return lines


def format_units(amount: int, decimals: int) -> str:
    """An integer amount of smallest units as a decimal with thousands separators and no trailing zeros."""
    whole, fraction = divmod(amount, 10**decimals)
    digits = str(fraction).zfill(decimals).rstrip("0") if decimals else ""
    return f"{whole:,}.{digits}" if digits else f"{whole:,}"


def _transfer_of(transaction: UnsignedTransaction) -> tuple[str, int] | None:
    return decode_erc20_transfer(transaction.data) if is_erc20_transfer(transaction) else None


def _amount(amount: int, unit: Unit) -> tuple[str, str]:
    return format_units(amount, unit.decimals), unit.symbol


def _native_amount(amount: int, unit: Unit) -> tuple[str, str]:
    if amount < SMALLEST_SHOWN_IN_COINS:
        return f"{amount:,}", "Wei"
    return _amount(amount, unit)


def _send_screen(recipient: str, amount: str, unit: str) -> str:
    lead = f"{unit} to " if unit else "to "
    first = lead + recipient[: LINE_CHARACTERS - len(lead)]
    rest = recipient[LINE_CHARACTERS - len(lead) :]
    return "\n".join(["Send", amount, first, rest[:LINE_CHARACTERS], f"{rest[LINE_CHARACTERS:]}?"])


def _fee_screen(description: str, amount: str, unit: str) -> str:
    text = f"{amount} {unit}"
    wrapped = [text[start : start + LINE_CHARACTERS] for start in range(0, len(text), LINE_CHARACTERS)]
    return "\n".join(["Confirm fee", description, *wrapped])


def _data_screens(data: bytes) -> list[str]:
    screens: list[str] = []
    shown = 0
    while shown < len(data) and len(screens) < DATA_PAGES:
        page = data[shown : shown + DATA_PAGE_BYTES]
        shown += len(page)
        lines = [page[at : at + DATA_LINE_BYTES].hex() for at in range(0, DATA_PAGE_BYTES, DATA_LINE_BYTES)]
        more = "... " if shown < len(data) else ""
        screens.append("\n".join(["Transaction data:", *lines, f"{more}{shown}/{len(data)} bytes"]))
    if shown < len(data):
        screens.append("\n".join(["Warning! Too long", "data to view.", "", "Proceed with caution."]))
    return screens


def _values_to_compare(transaction: UnsignedTransaction, model: str, firmware: str) -> str:
    transfer = _transfer_of(transaction)
    recipient, amount = transfer or (transaction.to, transaction.value)
    lines = [
        f"The exact screens of a {model} with firmware {firmware} are not known here. Compare these values:",
        f"recipient {recipient}",
        f"amount {amount} in smallest units" if transfer else f"amount {amount} wei",
        f"chain id {transaction.chain_id}",
        f"maximum fee per gas {transaction.max_fee_per_gas} wei",
        f"priority fee per gas {transaction.max_priority_fee_per_gas} wei",
        f"maximum fee {transaction.max_total_fee_wei} wei",
    ]
    if transfer:
        lines.insert(1, f"token contract {transaction.to}")
    elif transaction.data:
        lines.append(f"data {transaction.data.hex()}")
    return "\n".join(lines)
