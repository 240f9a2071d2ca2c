"""What a Trezor One knows by itself: the chains and tokens whose amounts its screen can name (R2).

A chain or token that is not here is shown in smallest units with the unit UNKN, in a line that is cut at the
screen's edge. Source: the firmware's own definitions, supported set of T1B1, read at 1.14.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from custody.trezor.transaction import TransactionError, UnsignedTransaction, decode_erc20_transfer

ONE: Final = "T1B1"
KNOWN_FIRMWARE: Final = frozenset({(ONE, "1.14.2")})
UNKNOWN_UNIT: Final = "UNKN"
NATIVE_DECIMALS: Final = 18


@dataclass(frozen=True, slots=True)
class Unit:
    """How a device names an amount: a symbol, and how many decimals it moves the point by."""

    symbol: str
    decimals: int


UNKNOWN_TOKEN: Final = Unit(UNKNOWN_UNIT, 0)

BUILT_IN_NETWORKS: Final[dict[int, str]] = {
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

# The ones a treasury meets; the firmware has some twenty more, which are then merely reported as unreadable.
BUILT_IN_TOKENS: Final[dict[tuple[int, str], Unit]] = {
    (1, "0xdAC17F958D2ee523a2206206994597C13D831ec7"): Unit("USDT", 6),
    (1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"): Unit("USDC", 6),
    (1, "0x6B175474E89094C44Da98b954EedeAC495271d0F"): Unit("DAI", 18),
    (1, "0x2260FAC5E5542a773Aa44fBCfeDf7C193bc2C599"): Unit("WBTC", 8),
    (1, "0x514910771AF9Ca656af840dff83E8264EcF986CA"): Unit("LINK", 18),
    (56, "0x0Eb3a705fc54725037CC9e008bDede697f62F335"): Unit("ATOM", 18),
    (137, "0x2C89bbc92BD86F8075d1DEcc58C7F4E0107f286b"): Unit("WAVAX", 18),
}


def native_unit(chain_id: int) -> Unit:
    """The unit a Trezor One gives to a chain's own coin; UNKN for a chain it does not know."""
    return Unit(BUILT_IN_NETWORKS.get(chain_id, UNKNOWN_UNIT), NATIVE_DECIMALS)


def token_unit(chain_id: int, token: str) -> Unit:
    """The unit a Trezor One gives to an ERC-20 contract (checksum address); raw units and UNKN when
    unknown.
    """
    return BUILT_IN_TOKENS.get((chain_id, token), UNKNOWN_TOKEN)


def why_amount_not_readable(transaction: UnsignedTransaction, model: str, firmware: str) -> str | None:
    """Why a person at this device cannot read what is sent, as a sentence; None when it can be read (R2).

    Only a Trezor One is judged: on a firmware whose screens are not known here it is refused as well. Other
    models name chain and contract on their screens and follow the raw_units rule of R2, which the caller
    holds.
    """
    if model != ONE:
        return None
    chain, token = transaction.chain_id, transaction.to
    why = None
    if (model, firmware) not in KNOWN_FIRMWARE:
        why = f"what a {model} with firmware {firmware} shows is not known"
    elif chain not in BUILT_IN_NETWORKS:
        why = f"a {model} does not know chain {chain} and shows the unit {UNKNOWN_UNIT}"
    elif transaction.data and not is_erc20_transfer(transaction):
        why = f"a {model} shows this call only as hexadecimal data"
    elif transaction.data and (chain, token) not in BUILT_IN_TOKENS:
        why = f"a {model} does not know token {token} and shows its smallest units"
    return why and f"amount_not_readable: {why}."


def is_erc20_transfer(transaction: UnsignedTransaction) -> bool:
    """Whether the call is a clean ERC-20 transfer that sends no native coin along."""
    try:
        decode_erc20_transfer(transaction.data)
    except TransactionError:
        return False
    return transaction.value == 0
