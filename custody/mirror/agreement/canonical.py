"""One value of a document as canonical text: what Postgres makes of the same value's column (``queries``).

These are shortcuts for values in the forms that MongoDB holds most often; every other form goes through the mapping's own
reader. An encoder raises ValueError or TypeError for what the mapping refuses: its document is then looked at whole.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from json.encoder import encode_basestring
from struct import Struct
from typing import Any, Final

from bson import Decimal128, Int64, ObjectId

from custody.mirror.collections.values import TEMPLATE_PREFIXES, _json_column

Encode = Callable[[Any], str]
Validate = Callable[[Any], Any]


def _call(number: int) -> str:
    return f"encode{number}(v)"


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder, and the same as an expression of ``v`` that needs no call for the form that MongoDB holds most often.

    ``shortcut`` is given the number that the expression ends its names with: ``encode`` is the encoder, the others are those of
    ``names``. ``custody.mirror.agreement.compiling`` makes one function of a document's expressions.
    """

    encode: Encode
    shortcut: Callable[[int], str] = _call
    names: Mapping[str, Any] = field(default_factory=dict[str, Any])


ABSENT: Final = ""
"""What is NULL or missing. No value's text is empty: an empty text is ``0:``."""

SEPARATOR: Final = ";"

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the digests' codec leaves UTC unsaid, which is half the cost
_MILLISECOND: Final = timedelta(milliseconds=1)
_INTEGERS: Final = (int, Int64)
_SPECIAL_BITS: Final = 3  # of a Decimal128's combination field: infinity, NaN, or a significand that none of ours needs
_EXPONENT_BIAS: Final = 6176
_HIGH_SIGNIFICAND: Final = 2**49 - 1  # of a Decimal128's upper word
_WORDS: Final = Struct("<QQ")
_SHIFT_MAXIMUM: Final = 100  # decimal places: far past every column's, and no power that takes long to make


def prefixed(value: str) -> str:
    """A text that ends where its length says, whatever stands in it."""
    return f"{len(value)}:{value}"


def joined(pieces: Iterable[str]) -> str:
    """The rows of a list, each ending where its length says."""
    return "".join(map(prefixed, pieces))


def text(validate: Validate, longest: int | None, pattern: str | None) -> Encoder:
    fits = None if pattern is None else re.compile(pattern).search

    def encode(value: Any) -> str:
        if type(value) is not str:
            value = validate(value)
        if longest is not None and len(value) > longest:
            raise ValueError(f"expected at most {longest} characters")
        if fits is not None and fits(value) is None:
            raise ValueError("expected another text")
        return f"{len(value)}:{value}"

    if longest is not None or pattern is not None:
        return Encoder(encode)
    return Encoder(encode, lambda n: f'f"{{len(v)}}:{{v}}" if type(v) is str else encode{n}(v)')


def choice(members: frozenset[str], *, is_text: bool) -> Encoder:
    """One of few values; ``is_text``: kept in a text column."""
    said = {member: prefixed(member) if is_text else member for member in members}

    def encode(value: Any) -> str:
        if type(value) is str and value in said:
            return said[value]
        raise ValueError("expected one of the known values")

    return Encoder(encode, lambda n: f"said{n}.get(v) or encode{n}(v)", {"said": said})


def _flag(value: Any) -> str:
    if value is True:
        return "t"
    if value is False:
        return "f"
    raise ValueError("expected true or false")


FLAG: Final = Encoder(_flag, lambda n: f'"t" if v is True else "f" if v is False else encode{n}(v)')


def whole(validate: Validate, least: int | None, most: int | None) -> Encoder:
    def encode(value: Any) -> str:
        number: int = value if type(value) in _INTEGERS else validate(value)
        if (least is not None and number < least) or (most is not None and number > most):
            raise ValueError("out of its bounds")
        return str(int(number))

    low = "" if least is None else f" and v >= {least}"
    high = "" if most is None else f" and v <= {most}"
    return Encoder(encode, lambda n: f"str(v) if type(v) is int{low}{high} else encode{n}(v)")


def uint256(validate: Validate) -> Encoder:
    return Encoder(lambda value: str(validate(value)))


def money(validate: Validate, decimals: int, *, refuses_zero: bool, refuses_negative: bool) -> Encoder:
    """An amount with all its ``decimals``: ``12.500000000000000000``."""
    no_fraction = "." + "0" * decimals

    def encode(value: Any) -> str:
        kind = type(value)
        if kind is Decimal128:
            said = _decimal128(value, decimals)
        elif kind in _INTEGERS:
            said = f"{int(value)}{no_fraction}"
        else:
            said = _shortest(value, decimals) if isinstance(value, float) else None
            said = _decimal(validate(value), decimals) if said is None else said
        if refuses_negative and said[0] == "-":
            raise ValueError("expected no negative amount")
        if refuses_zero and not said.strip("0."):
            raise ValueError("expected more than zero")
        return said

    return Encoder(encode)


def _decimal128(value: Decimal128, decimals: int) -> str:
    low, high = _WORDS.unpack(value.bid)
    if (high >> 61) & 3 == _SPECIAL_BITS:
        raise ValueError("expected a finite amount")
    significand = ((high & _HIGH_SIGNIFICAND) << 64) | low
    exponent = ((high >> 49) & 0x3FFF) - _EXPONENT_BIAS
    is_negative = bool(high >> 63)
    if not -decimals <= exponent < 0:
        return _scaled(significand, exponent + decimals, is_negative, decimals)
    # As _scaled() says it, without arithmetic: the point among the digits.
    digits = str(significand).zfill(1 - exponent)
    sign = "-" if is_negative and significand else ""
    return f"{sign}{digits[:exponent]}.{digits[exponent:]:0<{decimals}}"


def _decimal(value: Decimal, decimals: int) -> str:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return _scaled(int("".join(map(str, digits))), exponent + decimals, bool(sign), decimals)


def _scaled(significand: int, shift: int, is_negative: bool, decimals: int) -> str:
    if abs(shift) > _SHIFT_MAXIMUM and significand:
        raise ValueError("expected an amount that its column holds")
    if shift >= 0:
        units = significand * 10**shift if significand else 0
    else:
        units, rest = divmod(significand, 10 ** min(-shift, _SHIFT_MAXIMUM))
        if rest:
            raise ValueError("expected no more decimals than its column has")
    before, after = divmod(units, 10**decimals)
    return f"{'-' if is_negative and units else ''}{before}.{after:0{decimals}d}"


def _shortest(value: Any, decimals: int) -> str | None:
    """A double's shortest text (rule 4), where that is plain digits; the mapping's reader takes the others."""
    before, _, after = repr(value).partition(".")
    if not before.isdecimal() or not after.isdecimal() or len(after) > decimals:
        return None
    return f"{before}.{after.ljust(decimals, '0')}"


def moment(validate: Validate) -> Encoder:
    """Milliseconds since 1970, rounded down, as MongoDB keeps them."""

    def encode(value: Any) -> str:
        if type(value) is not datetime or value.tzinfo is not None:
            value = validate(value).replace(tzinfo=None)
        return str((value - _EPOCH) // _MILLISECOND)

    return Encoder(
        encode,
        lambda n: f"str((v - epoch{n}) // ms{n}) if type(v) is datetime{n} and v.tzinfo is None else encode{n}(v)",
        {"epoch": _EPOCH, "ms": _MILLISECOND, "datetime": datetime},
    )


def object_id(validate: Validate) -> Encoder:
    def encode(value: Any) -> str:
        return value.binary.hex() if type(value) is ObjectId else validate(value).binary.hex()

    return Encoder(encode, lambda n: f"v.binary.hex() if type(v) is kind{n} else encode{n}(v)", {"kind": ObjectId})


def mixed_id(validate: Validate) -> Encoder:
    """An entity's ``e`` and hex, a template's ``t`` and text."""

    def encode(value: Any) -> str:
        if type(value) is ObjectId:
            return "e" + value.binary.hex()
        if type(value) is str and value.startswith(TEMPLATE_PREFIXES):
            return "t" + prefixed(value)
        return "e" + validate(value).binary.hex()

    return Encoder(encode)


def json_text(value: Any) -> str:  # noqa: PLR0911 - one a type
    """What the column's jsonb prints of ``value``: keys by their length and then their bytes, numbers in full."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        if not value:
            return "{}"
        names = sorted(value)
        names.sort(key=len if "".join(names).isascii() else _by_bytes)
        return "{" + ", ".join([f"{encode_basestring(name)}: {json_text(value[name])}" for name in names]) + "}"
    if kind is list:
        return "[" + ", ".join(map(json_text, value)) + "]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind in _INTEGERS:
        return str(int(value))
    if kind is ObjectId:
        return f'{{"$oid": "{value}"}}'
    if isinstance(value, float):
        return _json_number(value) if value - value == 0 else json_text(_json_column(value))
    return json_text(_json_column(value))


def _by_bytes(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded


def _json_number(value: Any) -> str:
    said = format(Decimal(repr(value)), "f")
    return said.removeprefix("-") if not said.strip("-0.") else said
