"""A small ledger over some payments, posted by the roles that may, and sealed by a key of the test's own."""

import random
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from custody.ledger.seal_keys import PublicKeys, SealKey, key_id
from custody.ledger.seals import Seal, oldest_unsealed, seal_next
from custody.ledger.verification import verify
from custody.ledger.verification_report import Report
from custody.store.engine import transaction
from tests.conftest import Database
from tests.ledger_book import Book, book_of, move
from tests.marketplace import Marketplace


def new_key() -> SealKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SealKey(Ed25519PrivateKey.generate())


def keys_of(*keys: SealKey) -> PublicKeys:
    return {key_id(key.public): key.public for key in keys}


def seal_all(database: Database, key: SealKey, *, limit: int = 10_000) -> list[Seal]:
    """Seal everything that has finished, as the sealer's role."""
    sealed: list[Seal] = []
    while True:
        with transaction(database.engine("fleet_sealer")) as connection:
            seal = seal_next(connection, key, limit=limit)
        if seal is None:
            return sealed
        sealed.append(seal)


def seal_to_the_end(database: Database, key: SealKey, *, limit: int = 10_000) -> list[Seal]:
    """Seal until nothing is left. Writers in other databases of the same server hold a window back for a moment."""

    def seal_more(sealed: list[Seal]) -> bool:
        sealed += seal_all(database, key, limit=limit)
        with transaction(database.engine("fleet_sealer")) as connection:
            return oldest_unsealed(connection) is None

    sealed: list[Seal] = []
    attempts = Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.02), retry=retry_if_result(lambda done: not done))
    attempts(seal_more, sealed)
    return sealed


def verified(database: Database, keys: PublicKeys, **options: object) -> Report:
    """The ledger verified as an operator sees it."""
    with transaction(database.engine("fleet_operator")) as connection:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return verify(connection, keys, **options)  # pyright: ignore[reportArgumentType]


# A payment that is seen, held, swept, disputed and half released; the amounts are multiples of its own.
_STORY = (
    ("seen", 100), ("seen", 50), ("deep", 90), ("surplus", 10), ("sweep", 100), ("dispute", 40), ("lifted", 40),
    ("reserve", 30), ("void", 10), ("final", 20), ("refund", 5), ("refund_final", 5), ("deep", 45), ("sweep", 50),
    ("reserve", 15), ("final", 15),
)  # fmt: skip


@dataclass
class SealedLedger:
    """The books, and the seals over all of their entries."""

    database: Database
    key: SealKey
    books: list[Book]
    seals: list[Seal]

    @property
    def keys(self) -> PublicKeys:
        return keys_of(self.key)

    def entries(self) -> list[UUID]:
        rows = self.books[0].market.execute("SELECT id FROM public.funds_ledger_entries ORDER BY tx_id, id")
        return [row.id for row in rows]


def sealed_ledger(database: Database, *, payments: int, seed: int = 1, key: SealKey | None = None) -> SealedLedger:
    """``payments`` books of 16 entries each, posted in turns, sealed every few entries."""
    chosen = random.Random(seed)
    market = Marketplace(database)
    key = key or new_key()
    books = [book_of(market) for _ in range(payments)]
    seals: list[Seal] = []
    for movement, amount in _STORY:
        for book in books:
            move(book, movement, Decimal(amount) + Decimal(chosen.randrange(100)) / 1_000_000, 0)
        seals += seal_all(database, key, limit=chosen.randint(3, 20))
    seals += seal_to_the_end(database, key, limit=15)
    return SealedLedger(database, key, books, seals)
