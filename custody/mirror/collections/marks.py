"""What a document's field may be marked with: its owner (R7), its column, and what it refers to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from custody.store.models import Base


class Owner(Enum):
    """Who may change a field after its document was made (R7)."""

    MONGO = "mongo"
    FLEET = "fleet"
    CREATE_ONLY = "create_only"


@dataclass(frozen=True, slots=True)
class Column:
    """The column, where it has another name than the field."""

    name: str


@dataclass(frozen=True, slots=True)
class Refers:
    """The field is the ObjectId of a document in ``collection``; the column holds its row's UUID."""

    collection: str


@dataclass(frozen=True, slots=True)
class RefersBy:
    """As ``Refers``; which collection, another field says: ``collections`` by the value of ``discriminator``."""

    discriminator: str
    collections: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Polymorphic:
    """The seed's triple: ``<prefix>_ref_kind``, ``<prefix>_id`` and ``<prefix>_external_ref``."""

    prefix: str
    collection: str

    @property
    def columns(self) -> tuple[str, str, str]:
        """The three columns, in the order above."""
        return f"{self.prefix}_ref_kind", f"{self.prefix}_id", f"{self.prefix}_external_ref"


@dataclass(frozen=True, slots=True)
class Inlined:
    """A nested document in columns of the same row, each with ``prefix`` before its name."""

    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Child:
    """A nested document, or a list of them, in rows of ``table``, which refer to their parent by ``parent``."""

    table: type[Base]
    parent: str
    ordinal: str | None = None
    """The column that keeps a list's order."""
