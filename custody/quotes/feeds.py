"""The quotes file (TOML): which Chainlink aggregators say what a currency or token is worth."""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from custody.settings.chains import Address
from custody.settings.environment import SettingsError

FEEDS_MAXIMUM: Final = 32
"""Of one file: with three calls each they fit one batched request of a chain, which most providers cap at 100."""

HEARTBEAT_MAXIMUM_SECONDS: Final = 172_800  # Chainlink's slowest feeds answer once a day
FEED_DECIMALS_MAXIMUM: Final = 18  # what numeric(38,18) holds; Chainlink's have 8 or 18
_FILE_MAXIMUM_BYTES: Final = 65_536  # a feed is some 200 bytes

Pair = Annotated[str, Field(pattern=r"^[A-Z]{3,12}/USD$")]
"""What a price is of: ``EUR/USD`` is dollars for one euro."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Feed(_Strict):
    """One aggregator. ``heartbeat_seconds``: how often it answers at least; ``decimals``: compared with its own."""

    pair: Pair
    chain: Annotated[int, Field(ge=1, strict=True)]
    address: Address
    heartbeat_seconds: Annotated[int, Field(ge=1, le=HEARTBEAT_MAXIMUM_SECONDS, strict=True)]
    decimals: Annotated[int, Field(ge=0, le=FEED_DECIMALS_MAXIMUM, strict=True)]
    description: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """What its ``description()`` says; the pair with blanks around the stroke when not named (``EUR / USD``)."""

    @property
    def said(self) -> str:
        """The description that it must have."""
        return self.description or self.pair.replace("/", " / ")

    @property
    def source(self) -> str:
        """How people see where a price came from."""
        return f"chainlink {self.chain} {self.address}"


class Feeds(_Strict):
    """The whole file."""

    feeds: Annotated[tuple[Feed, ...], Field(max_length=FEEDS_MAXIMUM)] = ()

    @model_validator(mode="after")
    def _differ(self) -> Self:
        places = [(feed.chain, feed.address) for feed in self.feeds]
        if len(set(places)) != len(places):
            raise ValueError("two feeds share a chain and an address: one source would count as two")
        return self


def load_feeds(path: Path) -> Feeds:
    """Read and check the quotes file. Raises SettingsError naming each wrong field and what was expected."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"QUOTES_FILE {path} cannot be read: {error.strerror}") from None
    if len(content) > _FILE_MAXIMUM_BYTES:
        raise SettingsError(f"QUOTES_FILE {path} is over {_FILE_MAXIMUM_BYTES} bytes")
    try:
        return Feeds.model_validate(tomllib.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"QUOTES_FILE {path} is no TOML: {error}") from None
    except ValidationError as error:
        lines = [
            f"QUOTES_FILE {path}: {'.'.join(str(part) for part in item['loc']) or 'feeds'}: "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
