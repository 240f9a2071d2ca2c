"""Payments that wait for a quote, sources that say what a test wants, and signed price files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from custody.policy.documents import document_hash
from custody.policy.in_force import SignedFolder
from custody.policy.price_file import PriceFile, prices_text
from custody.policy.verified import SignedFile
from custody.quotes import Answer, Bounds, Price, Unusable
from custody.quotes.prices import PriceSource
from custody.quotes.quoting import Sources, run_once
from custody.quotes.signed_prices import SignedPrices
from tests.conftest import Database
from tests.marketplace import Marketplace, object_id
from tests.policy_files import NOW, Fleet, signed, write_signed

BOUNDS = Bounds(
    lifetime_seconds=900, feed_margin_seconds=300, deviation_bps=100, jump_bps=1_000, depeg_bps=500, sources_minimum=1
)


@dataclass
class Told:
    """A source that says what it is told: prices by pair."""

    prices: Mapping[str, str] = field(default_factory=lambda: {"USDC/USD": "1", "EUR/USD": "1.0834"})
    name: str = "told"
    age: int = 5
    asked: list[frozenset[str]] = field(default_factory=list[frozenset[str]])

    def answers(self, pairs: Collection[str], now: datetime) -> Sequence[Answer]:
        self.asked.append(frozenset(pairs))
        at = now - timedelta(seconds=self.age)
        return [
            Price(pair, self.name, Decimal(value), at)
            if value != "none"
            else Unusable(pair, self.name, "it says nothing today")
            for pair, value in sorted(self.prices.items())
            if pair in pairs
        ]


def unrouted(market: Marketplace, price: str = "100", currency: str = "EUR") -> UUID:
    """A pending payment of an offer in another currency, before its route: where a quote belongs (facts §7)."""
    payment = market.payment()
    market.execute("DELETE FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
    market.execute(
        "UPDATE public.seller_offers SET price_amount = :price, price_currency = CAST(:currency AS public.offer_currency) "
        "WHERE id = (SELECT seller_offer_id FROM public.payments WHERE id = :id)",
        price=Decimal(price),
        currency=currency,
        id=payment,
    )
    return payment


def quote_round(
    database: Database,
    *sources: PriceSource,
    signed_prices: SignedPrices | None = None,
    now: datetime | None = None,
    attempts_limit: int = 20,
) -> int:
    """One round of the housekeeping worker, with what is put off due again."""
    with database.engine().begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fleet.quotes SET run_after = clock_timestamp() WHERE state IN ('asked', 'waits_for_people')"
        )
    every = (*sources, signed_prices) if signed_prices else sources
    return run_once(
        database.engine("fleet_housekeeping"),
        Sources(every, signed_prices),
        BOUNDS,
        lambda: now or datetime.now(UTC),
        100,
        attempts_limit=attempts_limit,
    )


def asked(market: Marketplace, payment: UUID) -> Any:
    """The fleet's row of a payment's quote."""
    return market.execute("SELECT * FROM fleet.quotes WHERE payment_id = :id", id=payment)[0]


def ask_for_object(market: Marketplace, owed: str = "100", currency: str = "EUR") -> str:
    """Ask for the quote of a payment that only MongoDB has; its ObjectId."""
    found = object_id()
    with market.database.engine("fleet_operator").begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO fleet.quotes (payment_object_id, owed, currency, chain_id, token, asked_by) "
            "VALUES (%s, %s, %s, %s, %s, 'a test')",
            (found, Decimal(owed), currency, market.chain_id, market.token),
        )
    return found


@dataclass
class PriceFolder:
    """A fleet's signed folder with a prices.toml in it."""

    folder: Path
    root: str

    @classmethod
    def make(cls, folder: Path) -> "PriceFolder":
        return cls(folder, Fleet().write(folder))

    @property
    def signed_folder(self) -> SignedFolder:
        return SignedFolder(self.folder, self.root)

    @property
    def path(self) -> Path:
        return self.folder / "prices.toml"

    def said(self, prices: Sequence[Mapping[str, str]], **changed: Any) -> dict[str, Any]:
        return {
            "environment": "amn1",
            "genesis": self.root,
            "version": 1,
            "issued_at": NOW - timedelta(hours=1),
            "expires_at": NOW + timedelta(days=1),
            "prices": [dict(each) for each in prices],
            **changed,
        }

    def write(self, said: Mapping[str, Any], *people: str) -> str:
        """Write it, signed by people (ada and bob when none is named); its hash."""
        text = prices_text(PriceFile.model_validate(said), said)
        write_signed(self.path, SignedFile("prices.toml", said, signed(text, *(people or ("ada", "bob")))))
        return document_hash("prices", said)

    def source(self, database: Database, role: str = "fleet_housekeeping", *, accepts: bool = True) -> SignedPrices:
        return SignedPrices(database.engine(role), self.path, self.signed_folder, accepts=accepts)
