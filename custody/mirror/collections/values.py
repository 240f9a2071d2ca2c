"""Values as MongoDB keeps them and as Postgres takes them: read strictly, never guessed, NULL never becomes 0.

Each type here is an Annotated one for a document's field: pydantic reads what stands in MongoDB, ``Stored`` says what the
column gets and how it comes back.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from bson import Decimal128, Int64, ObjectId, json_util
from pydantic import AfterValidator, BeforeValidator

MONEY_DECIMALS: Final = 18  # numeric(38, 18)
MONEY_WHOLE_DIGITS: Final = 20
DECIMAL128_DIGITS: Final = 34
UINT256_MAXIMUM: Final = 2**256 - 1
TEMPLATE_PREFIXES: Final = ("template-checkout-", "template-tc-")
"""How the backend's synthetic references begin; every other string where an id is expected is refused."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a value is kept in a column, and read back from it."""

    to_column: Callable[[Any], Any]
    to_field: Callable[[Any], Any]


def _exact(value: object) -> Decimal:
    if isinstance(value, bool):
        raise ValueError("expected an amount, got a boolean")
    if isinstance(value, Decimal128):
        amount = value.to_decimal()
    elif isinstance(value, int):
        amount = Decimal(int(value))
    elif isinstance(value, str) or type(value).__name__ == "float":
        # A double's shortest text is what its writer meant; its binary expansion is nobody's amount.
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            raise ValueError(f"expected a decimal number, got {str(value)[:40]!r}") from None
    elif isinstance(value, Decimal):
        amount = value
    else:
        raise ValueError(f"expected an amount, got a {type(value).__name__}")
    if not amount.is_finite():
        raise ValueError(f"expected a finite amount, got {amount}")
    return amount


def _at_most(decimals: int, whole_digits: int) -> Callable[[object], Decimal]:
    def read(value: object) -> Decimal:
        amount = _exact(value)
        shortest = amount.normalize() if amount else Decimal(0)
        exponent = shortest.as_tuple().exponent
        assert isinstance(exponent, int)
        if -exponent > decimals:
            raise ValueError(f"expected at most {decimals} decimals, got {amount}")
        if shortest.adjusted() >= whole_digits:
            raise ValueError(f"expected at most {whole_digits} digits before the point, got {amount}")
        if len(shortest.as_tuple().digits) + max(exponent, 0) > DECIMAL128_DIGITS:
            raise ValueError(
                f"expected at most {DECIMAL128_DIGITS} digits, which is all that Decimal128 has, got {amount}"
            )
        return shortest

    return read


def _decimal128(value: Decimal) -> Decimal128:
    return Decimal128(value.normalize() if value else Decimal(0))


Money = Annotated[
    Decimal,
    BeforeValidator(_at_most(MONEY_DECIMALS, MONEY_WHOLE_DIGITS)),
    Stored(lambda value: value, _decimal128),
]
"""An amount of numeric(38, 18): Decimal128, integer, text, or a double by its shortest text."""

OfferPrice = Annotated[Decimal, BeforeValidator(_at_most(8, 10)), Stored(lambda value: value, _decimal128)]
"""A price of numeric(18, 8)."""


def _uint256(value: object) -> int:
    amount = _exact(value)
    if amount != amount.to_integral_value() or not 0 <= amount <= UINT256_MAXIMUM:
        raise ValueError(f"expected a whole number of 0 to 2**256 - 1, got {amount}")
    return int(amount)


Uint256 = Annotated[int, BeforeValidator(_uint256), Stored(Decimal, lambda value: str(int(value)))]
"""A balance on chain in smallest units; MongoDB keeps it as text."""


def _whole(value: object) -> int:
    # The mongo shell writes every number as a double.
    amount = _exact(value)
    if isinstance(value, str) or amount != amount.to_integral_value():
        raise ValueError(f"expected a whole number, got {str(value)[:40]!r}")
    if not -(2**63) <= amount < 2**63:
        raise ValueError(f"expected a whole number of 64 bits, got {amount}")
    return int(amount)


Whole = Annotated[
    int,
    BeforeValidator(_whole),
    Stored(lambda value: value, lambda value: Int64(value) if abs(value) >= 2**31 else value),
]
"""An integer of at most 64 bits."""


def _time(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError(f"expected a date, got a {type(value).__name__}")
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    # MongoDB keeps milliseconds.
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


Time = Annotated[datetime, BeforeValidator(_time), Stored(lambda value: value, _time)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got a {type(value).__name__}")
    if "\x00" in value:
        raise ValueError("it contains a NUL character, which Postgres keeps in no text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair") from None
    return value


Text = Annotated[str, BeforeValidator(_text)]


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got a {type(value).__name__}")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]


def _object_id(value: object) -> ObjectId:
    # Some writers kept the hex text of an id.
    if isinstance(value, ObjectId):
        return value
    if isinstance(value, str) and ObjectId.is_valid(value) and value == value.lower():
        return ObjectId(value)
    raise ValueError(f"expected an ObjectId, got {str(value)[:60]!r}")


Id = Annotated[ObjectId, BeforeValidator(_object_id)]


def _mixed_id(value: object) -> ObjectId | str:
    if isinstance(value, str) and value.startswith(TEMPLATE_PREFIXES):
        return _text(value)
    return _object_id(value)


MixedId = Annotated[ObjectId | str, BeforeValidator(_mixed_id)]
"""An entity's ObjectId, or a template's own reference."""


def _id_text(value: object) -> str:
    return str(value) if isinstance(value, ObjectId) else _text(value)


IdText = Annotated[str, BeforeValidator(_id_text)]
"""An id that the column keeps as text, of either store."""


_PLAIN: Final = (str, bool, int, type(None))
_AS_OBJECT: Final = (datetime, ObjectId, Decimal128)
_WITHOUT_TEXT: Final = (*_AS_OBJECT, Int64, bytes)


def _json_column(value: Any) -> Any:
    # What json.loads(json_util.dumps(value)) makes of it, without writing and reading the text.
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {name: _json_column(item) for name, item in value.items()}
    if kind is list:
        return [_json_column(item) for item in value]
    if kind in _AS_OBJECT:
        return json_util.default(value, json_util.RELAXED_JSON_OPTIONS)
    return json.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))


_JSON_OPTIONS: Final = json_util.RELAXED_JSON_OPTIONS.with_options(tz_aware=True, tzinfo=UTC)


def _json_field(value: Any) -> Any:
    return json_util.loads(json.dumps(value), json_options=_JSON_OPTIONS)


def _json(value: Any) -> Any:
    if _has_nul(value):
        raise ValueError("it contains a NUL character, which Postgres keeps in no jsonb")
    return value


def _has_nul(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return "\x00" in value
    if kind is dict:
        return any("\x00" in name or _has_nul(item) for name, item in value.items())
    if kind is list:
        return any(map(_has_nul, value))
    if kind in _PLAIN or kind in _WITHOUT_TEXT:
        return False
    return "\\u0000" in json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS)


Json = Annotated[Any, AfterValidator(_json), Stored(_json_column, _json_field)]
"""Whatever the backend keeps there: BSON's own types as MongoDB's Extended JSON (relaxed)."""
