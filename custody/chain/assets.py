"""Assets and exact amounts.

An asset is (chain id, token address or "native"), never a symbol (L10). Amounts are whole numbers of the
token's smallest unit inside the fleet, Decimal at its edges; nothing here rounds.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from custody.chain.addresses import parse_address

NATIVE: Final = "native"
# uint256, the widest amount an EVM token can hold (78 decimal digits).
MAX_UNITS: Final = 2**256 - 1
_MAX_DIGITS: Final = 78
# ERC-20 says uint8; above 77 one whole token is more than uint256 holds.
_MAX_DECIMALS: Final = 77
# A Decimal with more digits than a full uint256 and a full fraction is not an amount; refused before any
# arithmetic on it, so that a hostile one costs nothing.
_MAX_INPUT_DIGITS: Final = 2 * _MAX_DIGITS


class InvalidAmount(ValueError):
    """An amount that the token cannot represent exactly; it is refused, never rounded (L10)."""


@dataclass(frozen=True, slots=True, order=True)
class Asset:
    """One coin on one chain: `token` is a checksum address, or "native" for the chain's own coin (L10).

    Raises ValueError for a chain id below 1 and InvalidAddress for a token without a right checksum.
    """

    chain_id: int
    token: str

    def __post_init__(self) -> None:
        if isinstance(self.chain_id, bool) or self.chain_id < 1:
            raise ValueError(f"chain_id: expected a whole number above 0, got {self.chain_id!r}")
        if self.token != NATIVE:
            parse_address(self.token, field="token", require_checksum=True)

    @property
    def is_native(self) -> bool:
        """Whether this is the chain's own coin, which moves without Transfer logs (L8)."""
        return self.token == NATIVE

    def __str__(self) -> str:
        return f"{self.chain_id}:{self.token}"


@dataclass(frozen=True, slots=True)
class TokenTraits:
    """What a person must see of a token, pinned in the fleet's own table and never read from a payment.

    `decimals`: how many digits the smallest unit stands behind the point, 0 to 77.
    """

    symbol: str
    decimals: int

    def __post_init__(self) -> None:
        _check_decimals(self.decimals)
        if not self.symbol or not self.symbol.isprintable():
            raise ValueError(f"symbol: expected printable text, got {self.symbol!r}")


def to_units(amount: Decimal, decimals: int) -> int:
    """Return `amount` (whole tokens) in the token's smallest unit, exactly.

    Zeros behind the token's last digit are no decimals: numeric(38,18) brings them with every value.
    Raises InvalidAmount for NaN, infinity, a negative amount, more decimals than the token has (L10) or more
    than uint256; TypeError for anything but a Decimal.
    """
    if not isinstance(amount, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"amount: expected a Decimal, got {type(amount).__name__}; a float is never exact")
    _check_decimals(decimals)
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidAmount(f"amount: expected a finite number, got {amount}")
    if len(digits) > _MAX_INPUT_DIGITS:
        raise InvalidAmount(f"amount: {len(digits)} digits are more than any token has")
    coefficient = int("".join(map(str, digits)))
    if coefficient == 0:
        return 0
    if sign:
        raise InvalidAmount(f"amount: expected no negative number, got {amount}")
    shift = exponent + decimals
    if len(digits) + shift > _MAX_DIGITS + len(digits) or shift > _MAX_DIGITS:
        raise InvalidAmount("amount: larger than uint256, no token can hold it")
    if shift >= 0:
        units = coefficient * 10**shift
    else:
        # -shift above the number of digits leaves a remainder for sure; the power is never computed then.
        units, rest = divmod(coefficient, 10**-shift) if -shift < len(digits) else (0, coefficient)
        if rest:
            raise InvalidAmount(f"amount: {amount} has more than the token's {decimals} decimals")
    if units > MAX_UNITS:
        raise InvalidAmount("amount: larger than uint256, no token can hold it")
    return units


def to_amount(units: int, decimals: int) -> Decimal:
    """Return `units` (smallest unit) as whole tokens, exact for all 78 digits of uint256.

    Built from digits, because arithmetic would round to the 28 digits of the default Decimal context.
    Raises InvalidAmount for a negative number or more than uint256, TypeError for anything but an int.
    """
    if not isinstance(units, int) or isinstance(units, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"units: expected an int, got {type(units).__name__}")
    _check_decimals(decimals)
    if not 0 <= units <= MAX_UNITS:
        raise InvalidAmount(f"units: expected 0 to 2**256 - 1, got {units}")
    return Decimal((0, tuple(map(int, str(units))), -decimals))


def _check_decimals(decimals: int) -> None:
    if isinstance(decimals, bool) or not 0 <= decimals <= _MAX_DECIMALS:
        raise ValueError(f"decimals: expected 0 to {_MAX_DECIMALS}, got {decimals!r}")
