"""House accounts: the books of a gas payer's or a treasury's own coins, one a (chain, address) (L6)."""

from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.addresses import parse_address

HouseKind = Literal["gas_payer", "treasury", "release_payer"]


class HouseAccountDiffers(Exception):
    """The address has a house account of another kind: one key would serve two purposes (R16)."""


def house_account(connection: Connection, chain_id: int, address: str, kind: HouseKind) -> UUID | None:
    """The id of the house book, or None if it was never registered."""
    return connection.execute(
        text("SELECT id FROM fleet.house_accounts WHERE chain_id = :chain AND address = :address AND kind = :kind"),
        {"chain": chain_id, "address": address, "kind": kind},
    ).scalar_one_or_none()


def ensure_house_account(connection: Connection, chain_id: int, address: str, kind: HouseKind) -> UUID:
    """Register the house book if it is new and return its id (the operator's role inserts).

    Raises InvalidAddress, and HouseAccountDiffers if the address is registered as another kind.
    """
    address = parse_address(address, field=kind, require_checksum=True)
    connection.execute(
        text(
            "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:chain, :address, :kind) "
            "ON CONFLICT (chain_id, address) DO NOTHING"
        ),
        {"chain": chain_id, "address": address, "kind": kind},
    )
    found = house_account(connection, chain_id, address, kind)
    if found is None:
        raise HouseAccountDiffers(f"{address} on chain {chain_id} is already the house's in another office")
    return found
