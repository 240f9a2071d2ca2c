"""Prices that approvers signed, as a source: read and verified from disk each time they are asked for (R8)."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from custody.policy.in_force import SignedFolder, read_genesis
from custody.policy.price_file import VerifiedPrices, verify_prices
from custody.policy.refusals import PolicyRefused
from custody.policy.verified import Accepted, read_signed
from custody.quotes.prices import Answer, Price, Unusable
from custody.store.engine import transaction

_NEWEST = text("SELECT version, hash FROM fleet.accepted_price_files ORDER BY version DESC LIMIT 1")
_ACCEPT = text(
    "INSERT INTO fleet.accepted_price_files (version, hash) VALUES (:version, :hash) ON CONFLICT (version) DO NOTHING"
)


def read_signed_prices(
    connection: Connection, path: Path, signed: SignedFolder | None, now: datetime, *, accepts: bool
) -> VerifiedPrices:
    """The file as it binds at ``now``; with ``accepts`` none older is taken from then on. Raises PolicyRefused."""
    if signed is None:
        raise PolicyRefused(
            path.name, "signatures", "expected safekeeping: without a genesis nobody says whose signature counts"
        )
    newest = connection.execute(_NEWEST).one_or_none()
    accepted = None if newest is None else Accepted(newest.version, newest.hash)
    found = verify_prices(read_signed(path), read_genesis(connection, signed, now), accepted=accepted, now=now)
    if accepts and (accepted is None or found.file.version > accepted.version):
        connection.execute(_ACCEPT, {"version": found.file.version, "hash": found.hash})
    return found


class SignedPrices:
    """One prices file. ``accepts``: whether this process writes down which version it saw (a dry look does not)."""

    def __init__(self, engine: Engine, path: Path, signed: SignedFolder | None, *, accepts: bool) -> None:
        self._engine = engine
        self._path = path
        self._signed = signed
        self._accepts = accepts
        self._anchors: tuple[datetime, Mapping[str, Decimal]] | None = None

    @property
    def anchors(self) -> tuple[datetime, Mapping[str, Decimal]] | None:
        """When the file that was last asked was issued, and the levels that its signers vouch for, by pair."""
        return self._anchors

    def answers(self, pairs: Collection[str], now: datetime) -> Sequence[Answer]:
        """Its prices of these pairs; a file that is refused says so for each of them."""
        self._anchors = None
        try:
            with transaction(self._engine) as connection:
                found = read_signed_prices(connection, self._path, self._signed, now, accepts=self._accepts)
        except PolicyRefused as error:
            return [Unusable(pair, self._path.name, f"it is refused: {error}") for pair in sorted(pairs)]
        prices = found.of("source")
        self._anchors = (found.file.issued_at, {**prices, **found.of("anchor")})
        source = f"{self._path.name} v{found.file.version}, signed by {', '.join(found.signed_by)}"
        return [
            Price(pair, source, price.normalize(), found.file.issued_at)
            for pair, price in sorted(prices.items())
            if pair in pairs
        ]
