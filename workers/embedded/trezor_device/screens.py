"""The screens of a Trezor One 1.14.2, as lines, drawn only from what came over the wire.

This is written apart from the signer's preview on purpose: tests hold the two against each other.
"""

from __future__ import annotations

from typing import Final

from eth_utils.address import to_checksum_address
from trezorlib.messages import EthereumSignTxEIP1559

Screen = tuple[str, ...]
ROW: Final = 18
PAGE_ROWS: Final = 4
_TRANSFER_HEAD: Final = bytes.fromhex("a9059cbb") + bytes(12)

_CHAINS: Final = {
    1: "ETH",
    10: "ETH",
    56: "BNB",
    61: "ETC",
    137: "POL",
    8453: "ETH",
    42161: "ETH",
    560048: "tHOO",
    11155111: "tSEP",
}
_TOKENS: Final = {
    (1, "dac17f958d2ee523a2206206994597c13d831ec7"): ("USDT", 6),
    (1, "a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"): ("USDC", 6),
    (1, "6b175474e89094c44da98b954eedeac495271d0f"): ("DAI", 18),
    (1, "2260fac5e5542a773aa44fbcfedf7c193bc2c599"): ("WBTC", 8),
    (1, "514910771af9ca656af840dff83e8264ecf986ca"): ("LINK", 18),
    (56, "0eb3a705fc54725037cc9e008bdede697f62f335"): ("ATOM", 18),
    (137, "2c89bbc92bd86f8075d1decc58c7f4e0107f286b"): ("WAVAX", 18),
}


def send_screen(request: EthereumSignTxEIP1559) -> Screen:
    """The first screen of a transaction: how much, to whom."""
    chain = request.chain_id
    if is_token_transfer(request):
        data = request.data_initial_chunk or b""
        symbol, decimals = _TOKENS.get((chain, _bare(request.to)), ("UNKN", 0))
        amount, to = _decimal(int.from_bytes(data[36:68], "big"), decimals), data[16:36]
    else:
        value = int.from_bytes(request.value, "big")
        to = bytes.fromhex(_bare(request.to))
        amount, symbol = _coins(value, chain) if value else ("message", "")
    text = to_checksum_address(to)
    head = f"{symbol} to ".lstrip()
    cut = ROW - len(head)
    return ("Send", amount, head + text[:cut], text[cut : cut + ROW], text[cut + ROW :] + "?")


def data_screens(request: EthereumSignTxEIP1559) -> list[tuple[Screen, bool]]:
    """Pages of call data that is no token transfer; True marks the last one's warning that not all was
    shown.
    """
    if is_token_transfer(request) or not request.data_length:
        return []
    chunk, total = request.data_initial_chunk or b"", request.data_length
    pages: list[tuple[Screen, bool]] = []
    for offset in range(0, min(total, 5 * 24), 24):
        page = chunk[offset : offset + 24]
        end = offset + len(page)
        status = f"{'... ' if end < total else ''}{end}/{total} bytes"
        pages.append((("Transaction data:", page[:8].hex(), page[8:16].hex(), page[16:].hex(), status), False))
    if total > 5 * 24:
        pages.append((("Warning! Too long", "data to view.", "", "Proceed with caution."), True))
    return pages


def fee_screens(request: EthereumSignTxEIP1559) -> list[Screen]:
    """The three fee screens of an EIP-1559 transaction."""
    fee = int.from_bytes(request.max_gas_fee, "big")
    tip = int.from_bytes(request.max_priority_fee, "big")
    total, unit = _coins(fee * int.from_bytes(request.gas_limit, "big"), request.chain_id)
    return [
        ("Confirm fee", "Maximum fee per gas", *_rows(f"{_decimal(fee, 9)} Gwei")),
        ("Confirm fee", "Priority fee per gas", *_rows(f"{_decimal(tip, 9)} Gwei")),
        ("Confirm fee", "Maximum fee", *_rows(f"{total} {unit}")),
    ]


def message_screens(address: str, message: bytes) -> list[Screen]:
    """The signer's address, then the text four rows a page; as hexadecimal unless all of it is printable
    ASCII.
    """
    readable = all(0x20 <= byte < 0x7F for byte in message)
    title = "Sign message?" if readable else "Sign binary message?"
    step, text = (ROW, message.decode()) if readable else (16, message.hex())
    rows = _rows(text, step)
    pages = [(title, *rows[at : at + PAGE_ROWS]) for at in range(0, len(rows), PAGE_ROWS)]
    return [("Confirm address?", "Message signed by:", *_rows(address)), *(pages or [(title,)])]


def is_token_transfer(request: EthereumSignTxEIP1559) -> bool:
    """Whether the device reads the call as an ERC-20 transfer: no value and 68 bytes with a clean address."""
    data = request.data_initial_chunk or b""
    return not request.value and request.data_length == 68 == len(data) and data.startswith(_TRANSFER_HEAD)


def _coins(wei: int, chain: int) -> tuple[str, str]:
    return (_decimal(wei, 18), _CHAINS.get(chain, "UNKN")) if wei >= 10**9 else (_decimal(wei, 0), "Wei")


def _decimal(amount: int, decimals: int) -> str:
    digits = str(amount).rjust(decimals + 1, "0")
    point = len(digits) - decimals
    fraction = digits[point:].rstrip("0")
    return f"{int(digits[:point]):,}" + (f".{fraction}" if fraction else "")


def _rows(text: str, step: int = ROW) -> list[str]:
    return [text[at : at + step] for at in range(0, len(text), step)]


def _bare(address: str | None) -> str:
    return (address or "").lower().removeprefix("0x")
