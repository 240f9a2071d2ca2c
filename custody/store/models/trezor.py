"""Trezor accounts of marketplace users, and the addresses issued from them."""

from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Migrated, Stamped, Time


class TrezorAccount(Migrated, Stamped, Base):
    """Table ``trezor_accounts``."""

    __tablename__ = "trezor_accounts"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id"))
    xpub_fingerprint: Mapped[str]
    xpub: Mapped[str]
    base_path: Mapped[str] = mapped_column(server_default=text("'m/44''/60''/0'''"))
    registration_address: Mapped[str]
    next_address_index: Mapped[int] = mapped_column(server_default=text("1"))
    device_label: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))


class TrezorDerivedAddress(Migrated, Base):
    """Table ``trezor_derived_addresses``."""

    __tablename__ = "trezor_derived_addresses"

    trezor_account_id: Mapped[UUID] = mapped_column(ForeignKey("public.trezor_accounts.id"))
    address_index: Mapped[int]
    address: Mapped[str]
    path: Mapped[str]
    purpose: Mapped[str]
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.payments.id"))
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
