"""Signed TOML documents: read within bounds, in one canonical form, with one hash (R8).

The hash covers what the file says, value by value, never how it is laid out: canonical bytes are JSON of ASCII with
sorted keys, prefixed with the document's kind, so that no document passes for one of another kind.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from custody.chain.addresses import parse_address
from custody.policy.refusals import PolicyRefused

Kind = Literal["genesis", "policy", "address book entry", "prices"]
FILE_MAXIMUM_BYTES: Final = 1_048_576  # a policy is a few kilobytes, an address book of 1,000 entries some 600
NO_HASH: Final = "0" * 64
"""What the first version names as its previous hash."""
AMOUNT_MAXIMUM: Final = Decimal(10) ** 18  # whole tokens; above it a typing error is likelier than a limit
AMOUNT_DECIMALS: Final = 18


def _address(value: str) -> str:
    return parse_address(value, require_checksum=True)


def _exact(value: Any) -> Any:
    if not isinstance(value, str | Decimal):
        raise ValueError('expected an exact amount in quotes, as "10000.5"')
    return value


def _plain_amount(value: Decimal) -> Decimal:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > AMOUNT_DECIMALS or abs(value) > AMOUNT_MAXIMUM:
        raise ValueError(f"expected at most {AMOUNT_MAXIMUM:f} whole tokens with at most {AMOUNT_DECIMALS} decimals")
    return value


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


Address = Annotated[str, AfterValidator(_address)]
Hash32 = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]
"""A hash of a chain, with 0x."""
DocumentHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of canonical bytes, without 0x."""
EnvironmentId = Annotated[str, Field(pattern=r"^[a-z0-9]{4}$")]
"""Four letters or digits: two fleets never take each other's files (R18)."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z0-9.]{1,12}$")]
ChainId = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
Version = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""A TOML date-time with an offset; without one nobody knows when it is."""
WholeTokens = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0), AfterValidator(_plain_amount)]
"""An amount of whole tokens, written in quotes: TOML's bare decimals are binary fractions."""


class Document(BaseModel):
    """Base of every model here: nothing unknown, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Document)


def canonical_bytes(kind: Kind, said: Mapping[str, Any], *, file: str = "document") -> bytes:
    """The bytes that a hash covers. Raises PolicyRefused for a value without an exact form (a float, a local time)."""
    return f"amanat/{kind}/1\n".encode() + json.dumps(
        _canonical(said, file=file, field=""), sort_keys=True, separators=(",", ":"), ensure_ascii=True
    ).encode("ascii")


def document_hash(kind: Kind, said: Mapping[str, Any], *, file: str = "document") -> str:
    """SHA-256 of the canonical bytes: 64 hex digits."""
    return hashlib.sha256(canonical_bytes(kind, said, file=file)).hexdigest()


def _canonical(value: Any, *, file: str, field: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(each, file=file, field=f"{field}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each, file=file, field=f"{field}.{place}") for place, each in enumerate(value)]
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise PolicyRefused(file, field[1:], "expected a time with its offset, as 2030-01-31T12:00:00Z")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, str | bool | int):
        return value
    raise PolicyRefused(file, field[1:], f"expected text, a whole number or a time, got {type(value).__name__}")


def read_toml(path: Path) -> dict[str, Any]:
    """What a file says. Raises PolicyRefused when it is missing, too large or no TOML."""
    name = path.name
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise PolicyRefused(name, "file", f"cannot be read ({error.strerror}); expected it at {path}") from None
    return parse_toml(content, file=name)


def parse_toml(content: bytes, *, file: str) -> dict[str, Any]:
    """What bytes of TOML say. Raises PolicyRefused."""
    if len(content) > FILE_MAXIMUM_BYTES:
        raise PolicyRefused(file, "file", f"expected at most {FILE_MAXIMUM_BYTES} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise PolicyRefused(file, "file", "expected TOML, which is UTF-8 text") from None
    except RecursionError:
        raise PolicyRefused(file, "file", "expected TOML that nests less deep") from None
    except tomllib.TOMLDecodeError as error:
        raise PolicyRefused(file, "file", f"expected TOML: {error}") from None


def validated(model: type[Model], said: Mapping[str, Any], *, file: str) -> Model:
    """The model of what a file says. Raises PolicyRefused naming the first wrong field and what was expected."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise PolicyRefused(file, field, first["msg"].removeprefix("Value error, ")) from None
