"""``address-book.toml``: who may be paid where, append-only, each entry chained to the one before and signed by k (R8).

An address is taken out by a further entry (``action = "remove"``), never by editing.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from custody.policy.documents import NO_HASH, Address, ChainId, Document, DocumentHash, EnvironmentId, Moment

ENTRIES_MAXIMUM: Final = 20_000  # read whole at each start; above it the book belongs in pages

Role = Literal["payee", "gas_payer", "fee_payee"]
_OURS: Final = frozenset[Role]({"gas_payer", "fee_payee"})


class AddressBookEntry(Document):
    """One signed line. ``owner`` is the marketplace user who is paid there, or ``house`` for a gas payer of ours and for
    where the house's fees are paid to."""

    environment: EnvironmentId
    number: Annotated[int, Field(ge=1, le=ENTRIES_MAXIMUM, strict=True)]
    previous: DocumentHash
    action: Literal["add", "remove"]
    role: Role
    chain_id: ChainId
    address: Address
    owner: Annotated[str, Field(min_length=1, max_length=64)]
    label: Annotated[str, Field(pattern=r"^[ -~]{1,36}$")]
    """Printable ASCII, two rows of a device's screen (R18)."""
    added_at: Moment
    """Cool-down counts from here."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.number == 1) != (self.previous == NO_HASH):
            raise ValueError("previous: expected 64 zeros for entry 1, else the hash of the entry before")
        if (self.role in _OURS) != (self.owner == "house"):
            raise ValueError("owner: expected 'house' for a gas payer or a fee payee, and for nobody else")
        return self


class AddressBook(Document):
    """Verified entries in their order, with the hash of the last one (64 zeros without any)."""

    entries: tuple[AddressBookEntry, ...]
    head: DocumentHash

    def payee_of(self, owner: str, chain_id: int) -> AddressBookEntry | None:
        """Where a marketplace user is paid on a chain: the newest address that no later entry takes out."""
        for each in reversed(self.entries):
            if (each.owner, each.chain_id, each.role, each.action) == (owner, chain_id, "payee", "add"):
                standing = self.entry(chain_id, each.address, "payee")
                return standing if standing is not None and standing.owner == owner else None
        return None

    def entry(self, chain_id: int, address: str, role: Role) -> AddressBookEntry | None:
        """The entry that stands for an address: the newest of its chain and role, None if that one removes it."""
        for each in reversed(self.entries):
            if (each.chain_id, each.address, each.role) == (chain_id, address, role):
                return each if each.action == "add" else None
        return None


EMPTY_ADDRESS_BOOK: Final = AddressBook(entries=(), head=NO_HASH)
