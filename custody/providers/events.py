"""What the events of every provider share: bounded JSON, open models, and the values that name money or a payment.

Open: unknown fields are kept, and a known field whose value is not understood is only left out, unless it is one that
decides which payment or transaction is meant. No event decides about money.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

EVENT_NAME: Final = re.compile(r"[\x21-\x7e]{1,100}")

_IDENTIFIER: Final = re.compile(r"[\x21-\x7e]{1,200}")
_REFERENCE: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{16})")
_TRANSACTION_HASH: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{64})")
_AMOUNT: Final = re.compile(r"[0-9]{1,60}(?:\.[0-9]{1,36})?")  # wider than any token's supply
_UNITS: Final = re.compile(r"[0-9]{1,78}")
_UNITS_MAXIMUM: Final = 2**256 - 1  # no token can hold more
_BRACKETS_LIMIT: Final = 200  # an event is flat; parsers recurse, and what others imported may let them recurse too far
_REASON_LIMIT: Final = 300  # characters of a refusal that are kept
_UNREAD: Final = "__unread__"


class MalformedEvent(ValueError):
    """A body that is no event. The message names the field and what was expected."""


def identifier(value: object) -> object:
    """A name that a provider gives something: printable ASCII. Nothing and the empty text are None."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise ValueError("expected 1 to 200 printable ASCII characters")
    return value


def _reference(value: object) -> object:
    if value is None or value == "":
        return None
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected 0x and 16 hex digits")
    return "0x" + match[1].lower()


def _transaction_hash(value: object) -> object:
    if value is None or value == "":
        return None
    match = _TRANSACTION_HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected 0x and 64 hex digits")
    return "0x" + match[1].lower()


def _amount(value: object) -> object:
    # A JSON number arrives here as int or Decimal, digit by digit as it was written: never as float.
    written = str(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else value
    if not isinstance(written, str) or not _AMOUNT.fullmatch(written):
        raise ValueError('expected a decimal number such as "100.0"')
    return Decimal(written)


def _units(value: object) -> object:
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(written, str) or not _UNITS.fullmatch(written) or int(written) > _UNITS_MAXIMUM:
        raise ValueError('expected a whole number of smallest units such as "1000000"')
    return int(written)


Identifier = Annotated[str | None, BeforeValidator(identifier)]
PaymentReference = Annotated[str | None, BeforeValidator(_reference)]
TransactionHash = Annotated[str | None, BeforeValidator(_transaction_hash)]
HumanAmount = Annotated[Decimal, BeforeValidator(_amount)]
"""Whole tokens or units of fiat."""
UnitAmount = Annotated[int, BeforeValidator(_units)]
"""Smallest units of a token."""


class Open(BaseModel):
    """A model that keeps what it does not know."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=False, arbitrary_types_allowed=False)


class OpenEvent(Open):
    """What every event has. ``unread`` names known fields whose value was not understood and left out."""

    deciding: ClassVar[frozenset[str]] = frozenset({"event"})
    """Fields (as sent) that make the event malformed when wrong; wrong values elsewhere are only left out."""

    event: str
    unread: Annotated[tuple[str, ...], Field(alias=_UNREAD)] = ()


_Read = TypeVar("_Read", bound=OpenEvent)


def read_event(model: type[_Read], fields: Mapping[str, Any]) -> _Read:
    """The event of that kind with these fields. Raises MalformedEvent, and nothing else, for a wrong deciding field."""
    given = {field: value for field, value in fields.items() if field != _UNREAD}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = {
            str(item["loc"][0]): item["msg"]
            for item in error.errors(include_input=False, include_url=False, include_context=False)
            if item["loc"]
        }
    deciding = sorted(model.deciding & wrong.keys())
    if deciding:
        raise MalformedEvent("; ".join(f"{field}: {wrong[field]}" for field in deciding)[:_REASON_LIMIT])
    read = {field: value for field, value in given.items() if field not in wrong}
    try:
        return model.model_validate({**read, _UNREAD: tuple(sorted(wrong))})
    except ValidationError:
        raise MalformedEvent("the fields of the event cannot be read") from None


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` is, its numbers as int or Decimal. Raises MalformedEvent, and nothing else."""
    if body.count(b"[") + body.count(b"{") > _BRACKETS_LIMIT:
        raise MalformedEvent(f"the body has over {_BRACKETS_LIMIT} brackets: expected one flat JSON object")
    try:
        value = json.loads(body.decode("utf-8", "strict"), parse_float=Decimal, parse_constant=_refuse_constant)
        # Escapes can write halves of surrogate pairs, which are no text and which no database holds.
        if isinstance(value, dict):
            for key in value:
                key.encode("utf-8")
    except (ValueError, ArithmeticError):
        raise MalformedEvent("the body is no JSON in UTF-8: expected one JSON object") from None
    if not isinstance(value, dict):
        raise MalformedEvent("the body is JSON but no object: expected one JSON object")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)
