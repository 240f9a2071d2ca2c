"""Derived destinations and their append-only sweeps. Balances are in smallest units."""

from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, BigInt, Migrated, Stamped, Time, Uint256
from custody.store.models.enums import DerivedDestinationStatus, RefKind


class DerivedDestination(Migrated, Stamped, Base):
    """Table ``derived_destinations``."""

    __tablename__ = "derived_destinations"

    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id"))
    seller_offer_ref_kind: Mapped[RefKind]
    seller_offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.seller_offers.id"))
    seller_offer_external_ref: Mapped[str | None]
    chain_id: Mapped[BigInt]
    address: Mapped[str]
    derivation_path: Mapped[str]
    derivation_index: Mapped[BigInt]
    status: Mapped[DerivedDestinationStatus] = mapped_column(server_default=text("'active'"))
    balance: Mapped[Uint256] = mapped_column(server_default=text("0"))
    sweep_count: Mapped[int] = mapped_column(server_default=text("0"))
    total_swept: Mapped[Uint256] = mapped_column(server_default=text("0"))
    deposit_account_id: Mapped[UUID | None]
    quarantine_reason: Mapped[str | None]


class DerivedDestinationSweep(Migrated, Base):
    """Table ``derived_destination_sweeps``."""

    __tablename__ = "derived_destination_sweeps"

    derived_destination_id: Mapped[UUID] = mapped_column(ForeignKey("public.derived_destinations.id"))
    chain_id: Mapped[BigInt]
    token_address: Mapped[str]
    transaction_hash: Mapped[str]
    log_index: Mapped[int | None]
    block_number: Mapped[BigInt | None]
    from_address: Mapped[str]
    to_address: Mapped[str]
    amount: Mapped[Uint256]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
