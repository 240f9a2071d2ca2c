"""Lists of sanctioned addresses: read from a file, loaded once a version, taken off by two persons alone (R10, R13)."""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from custody.chain.addresses import parse_address
from custody.ledger.adjustments import action_refusal, read_hash, require_label, require_reason

FILE_MAXIMUM_BYTES: Final = 8_388_608  # some 160,000 addresses; the longest public lists have a few thousand
ADDRESSES_MAXIMUM: Final = 150_000


class SanctionsListRefused(ValueError):
    """A file that is no list of sanctioned addresses. The message names the field and what was expected."""


def _lower(value: str) -> str:
    return parse_address(value).lower()


class SanctionsList(BaseModel):
    """A whole list. ``version`` rises from one to the next, such as 20261127 for a day's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, lt=2**31, strict=True)]
    source: Annotated[str, Field(min_length=1, max_length=200)]
    addresses: Annotated[
        tuple[Annotated[str, AfterValidator(_lower)], ...], Field(min_length=1, max_length=ADDRESSES_MAXIMUM)
    ]

    def hash(self) -> str:
        """SHA-256 over the addresses in order, lower case, a line each; 64 hex digits."""
        return hashlib.sha256("".join(f"{each}\n" for each in sorted(set(self.addresses))).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LoadedList:
    """One version as it was loaded; ``hash`` in hex."""

    version: int
    hash: str
    source: str
    addresses: int
    loaded_by: str
    loaded_at: datetime


@dataclass(frozen=True, slots=True)
class Naming:
    """What the lists say of one address; ``delisted_on``: the chains on which two persons took it off."""

    address: str
    since_version: int
    delisted_on: Sequence[int]


def read_list(path: Path) -> SanctionsList:
    """The list that a TOML file holds. Raises SanctionsListRefused."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise SanctionsListRefused(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > FILE_MAXIMUM_BYTES:
        raise SanctionsListRefused(f"{path}: expected at most {FILE_MAXIMUM_BYTES} bytes")
    try:
        return SanctionsList.model_validate(tomllib.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise SanctionsListRefused(f"{path}: expected TOML with version, source and addresses: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise SanctionsListRefused(f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}") from None


def load_list(connection: Connection, found: SanctionsList, *, by: str) -> int | None:
    """Load a version; it binds for every judgement from now on. How many addresses are new; None for a repeat.

    What it no longer names stays named. Raises ActionRefused for a version that is not newer than the loaded one.
    """
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.load_sanctions(:version, :addresses, :hash, :source, :by)"),
            {
                "version": found.version,
                "addresses": list(found.addresses),
                "hash": bytes.fromhex(found.hash()),
                "source": found.source,
                "by": by,
            },
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def loaded_lists(connection: Connection, limit: int) -> list[LoadedList]:
    """The newest versions, newest first."""
    rows = connection.execute(
        text(
            "SELECT version, encode(hash, 'hex') AS hash, source, addresses, loaded_by, loaded_at "
            "FROM fleet.sanctions_lists ORDER BY version DESC LIMIT :limit"
        ),
        {"limit": limit},
    )
    return [LoadedList(**row._mapping) for row in rows]


def naming_of(connection: Connection, address: str) -> Naming | None:
    """What the lists say of an address; None if none names it. Raises ValueError for what is no address."""
    row: Any = connection.execute(
        text(
            """
            SELECT a.address, a.since_version, ARRAY(SELECT x.chain_id FROM fleet.sanctions_delisted x
                WHERE x.address = a.address ORDER BY x.chain_id) AS delisted_on
            FROM fleet.sanctioned_addresses a WHERE a.address = :address
            """
        ),
        {"address": _lower(address)},
    ).one_or_none()
    return None if row is None else Naming(parse_address(row.address), row.since_version, row.delisted_on)


def propose_delisting(connection: Connection, chain_id: int, address: str, *, reason: str, by: str) -> UUID:
    """Propose that an address may pay on one chain again, and that what it paid there is locked no more.

    Raises ActionRefused for an address that no list names there, ValueError.
    """
    require_reason(reason)
    require_label(by)
    try:
        return connection.execute(
            text("SELECT fleet.propose_delisting(:chain, :address, :reason, :by)"),
            {"chain": chain_id, "address": parse_address(address), "reason": reason, "by": by},
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error


def delist(connection: Connection, action_id: UUID, *, agreed_hash: str, by: str) -> str:
    """Take the address off as another person than who proposed it, once two have signed; returns the address.

    Raises ActionRefused; the transaction must be rolled back.
    """
    require_label(by)
    agreed = read_hash(agreed_hash)
    try:
        return connection.execute(
            text("SELECT fleet.execute_delisting(:id, :hash, :by)"), {"id": action_id, "hash": agreed, "by": by}
        ).scalar_one()
    except DBAPIError as error:
        raise action_refusal(error) from error
