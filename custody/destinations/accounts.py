"""What deposit addresses come from: an HD account's xpub, or the treasury's own contracts (R20)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eth_typing import ChecksumAddress
from sqlalchemy import Connection, text

from custody.destinations.bulk_derivation import AddressBytes, addresses_of
from custody.destinations.derivation import DerivationError, address_at, derivation_path
from custody.destinations.forwarders import forwarder_at, forwarder_path


@dataclass(frozen=True, slots=True)
class HdAccount:
    """Children of ``xpub``, the account at ``path``."""

    xpub: str
    path: str

    def address(self, chain_id: int, index: int) -> ChecksumAddress:
        """Raises DerivationError."""
        return address_at(self.xpub, index, self.path)

    def path_of(self, index: int) -> str:
        """Raises DerivationError."""
        return derivation_path(index, self.path)

    def in_bulk(self) -> Callable[[int, int], str]:
        """``(chain id, index)`` to the address in lower case, by code of its own and faster. Raises DerivationError."""
        derive: AddressBytes = addresses_of(self.xpub, self.path)
        return lambda _chain_id, index: "0x" + derive(index).hex()


@dataclass(frozen=True, slots=True)
class ForwarderAccount:
    """Forwarders of each chain's treasury."""

    id: UUID
    treasuries: Mapping[int, str] = field(default_factory=dict[int, str])

    def address(self, chain_id: int, index: int) -> ChecksumAddress:
        """Raises DerivationError, also for a chain that was opened after the account."""
        treasury = self.treasuries.get(chain_id)
        if treasury is None:
            raise DerivationError(
                f"the forwarder account {self.id} has no treasury on chain {chain_id}: open another one"
            )
        return forwarder_at(treasury, self.id, index)

    def path_of(self, index: int) -> str:
        """Raises DerivationError."""
        return forwarder_path(self.id, index)

    def in_bulk(self) -> Callable[[int, int], str]:
        """As an HdAccount's."""
        return lambda chain_id, index: self.address(chain_id, index).lower()


DepositAccount = HdAccount | ForwarderAccount


def read_account(connection: Connection, row: Any) -> DepositAccount:
    """The account of a row with id, kind, xpub and base_path."""
    if row.kind == "hd_account":
        return HdAccount(row.xpub, row.base_path)
    treasuries = connection.execute(
        text("SELECT chain_id, treasury FROM fleet.forwarder_treasuries WHERE account_id = :id"), {"id": row.id}
    )
    return ForwarderAccount(row.id, {each.chain_id: each.treasury for each in treasuries})


def deposit_accounts(connection: Connection) -> dict[UUID, DepositAccount]:
    """Every account, by id."""
    rows = connection.execute(text("SELECT id, kind, xpub, base_path FROM fleet.deposit_accounts")).all()
    return {row.id: read_account(connection, row) for row in rows}
