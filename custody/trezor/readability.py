"""What a device can show of an amount: the table of chains and tokens that it names on its screen (R2).

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
NATIVE: Final = "native"


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


def token_unit(chain_id: int, token: str, defined: Unit | None = None) -> Unit:
    """The unit a Trezor One gives to an ERC-20 contract (checksum address); `defined` by a definition that goes along;
    raw units and UNKN when unknown.
    """
    if defined is not None:
        return defined
    return BUILT_IN_TOKENS.get((chain_id, token), UNKNOWN_TOKEN)


@dataclass(frozen=True, slots=True)
class Readable:
    """One row of the table: a model, from that firmware on, names this token of this chain on its screen."""

    model: str
    minimum_firmware: tuple[int, int, int]
    chain_id: int
    token: str
    unit: Unit


DEVICE_READABILITY: Final[tuple[Readable, ...]] = (
    *(Readable(ONE, (1, 14, 2), chain, NATIVE, native_unit(chain)) for chain in BUILT_IN_NETWORKS),
    *(Readable(ONE, (1, 14, 2), chain, token, unit) for (chain, token), unit in BUILT_IN_TOKENS.items()),
)
"""What is known to be readable without a definition (R2). Core models name a chain's own coin on every chain; what they
have built in of tokens was not measured, so each needs its definition."""

MINIMUM_FIRMWARE: Final[dict[str, tuple[int, int, int]]] = {
    ONE: (1, 14, 2),
    "T2T1": (2, 4, 3),
    "T2B1": (2, 6, 3),
    "T3B1": (2, 8, 3),
    "T3T1": (2, 7, 2),
}
"""The least firmware of a treasury's device where money is real (R22), by the maker's internal model: One, Model T, Safe 3,
Safe 3 rev. B, Safe 5. Of the first two these were run in the maker's emulators. For the others it is the first firmware that
the maker published for the model (github.com/trezor/data: firmware/t2b1, t3b1 and t3t1; trezor-firmware's
core/CHANGELOG.T2B1.md, .T3B1.md and .T3T1.md), which signs EIP-1559 and takes signed definitions (core 2.6.0): one that
claims to be older is no device that was ever sold. The Safe 7 (T3W1) is not in it: it speaks another protocol (THP)."""


def why_firmware_refused(model: str, firmware: str) -> str | None:
    """Why a device of this model and firmware holds no treasury, in words; None when it may (R22)."""
    least = MINIMUM_FIRMWARE.get(model)
    if least is None:
        known = ", ".join(MINIMUM_FIRMWARE)
        return (
            f"model {model} is not in this machine's table of firmwares ({known}); take a device of one of these models"
        )
    if _version(firmware) < least:
        return f"its firmware is {firmware}, a {model} needs at least {'.'.join(map(str, least))}"
    return None


def why_amount_not_readable(
    transaction: UnsignedTransaction,
    model: str,
    firmware: str,
    *,
    has_definition: bool = False,
    raw_units_approved: bool = False,
) -> str | None:
    """Why a person at this device cannot read what is sent, as a sentence; None when it can be read (R2).

    `has_definition`: the maker's definition of the token was checked and goes along. `raw_units_approved`: one more
    approver agreed to smallest units, which counts on core models alone. On a One also a firmware whose screens are not
    known here is refused, and the coin of a chain that it does not know.
    """
    chain, token = transaction.chain_id, transaction.to
    is_token = is_erc20_transfer(transaction)
    asset = token if is_token else NATIVE
    is_built_in = any(
        (row.model, row.chain_id, row.token) == (model, chain, asset) and _version(firmware) >= row.minimum_firmware
        for row in DEVICE_READABILITY
    )
    why = None
    if model == ONE and (model, firmware) not in KNOWN_FIRMWARE:
        why = f"what a {model} with firmware {firmware} shows is not known"
    elif transaction.data and not is_token:
        why = f"a {model} shows this call only as hexadecimal data"
    elif model == ONE and chain not in BUILT_IN_NETWORKS and not has_definition:
        why = f"a {model} does not know chain {chain} and shows the unit {UNKNOWN_UNIT}"
    elif is_token and not (is_built_in or has_definition or (raw_units_approved and model != ONE)):
        why = (
            f"a {model} does not know token {token} and shows its smallest units; fetch its definition: "
            "fleet signer definitions fetch"
        )
    return why and f"amount_not_readable: {why}."


def _version(firmware: str) -> tuple[int, ...]:
    parts = firmware.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def is_erc20_transfer(transaction: UnsignedTransaction) -> bool:
    """Whether the call is a clean ERC-20 transfer that sends no native coin along."""
    try:
        decode_erc20_transfer(transaction.data)
    except TransactionError:
        return False
    return transaction.value == 0
