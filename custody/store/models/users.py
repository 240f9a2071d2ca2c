"""Users and what belongs to one. Credentials are listed because the seed lists them; no role of the fleet reads them."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, BigInt, Json, Migrated, Stamped, Time
from custody.store.models.enums import AddressType, AuthProvider, UserRole, UserStatus


class User(Migrated, Stamped, Base):
    """Table ``users``."""

    __tablename__ = "users"

    email: Mapped[str | None] = mapped_column(String(255))
    password: Mapped[str | None] = mapped_column(String(255))
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    role: Mapped[UserRole] = mapped_column(server_default=text("'buyer'"))
    status: Mapped[UserStatus] = mapped_column(server_default=text("'active'"))
    is_email_verified: Mapped[bool] = mapped_column(server_default=text("false"))
    auth_provider: Mapped[AuthProvider] = mapped_column(server_default=text("'email'"))
    telegram_verified: Mapped[bool] = mapped_column(server_default=text("false"))
    profile: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    preferences: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    referral_code: Mapped[str | None]
    referred_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id", ondelete="SET NULL"))
    points_total: Mapped[int] = mapped_column(server_default=text("0"))
    points_available: Mapped[int] = mapped_column(server_default=text("0"))
    points_level: Mapped[int] = mapped_column(server_default=text("1"))


class UserPasskey(Base):
    """Table ``user_passkeys``."""

    __tablename__ = "user_passkeys"

    credential_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    public_key: Mapped[str]
    counter: Mapped[BigInt] = mapped_column(server_default=text("0"))
    device_type: Mapped[str | None]
    device_name: Mapped[str | None]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))


class UserRefreshToken(Base):
    """Table ``user_refresh_tokens``."""

    __tablename__ = "user_refresh_tokens"

    token: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))


class Address(Migrated, Stamped, Base):
    """Table ``addresses``."""

    __tablename__ = "addresses"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    type: Mapped[AddressType] = mapped_column(server_default=text("'Home'"))
    full_name: Mapped[str] = mapped_column(server_default=text("''"))
    phone: Mapped[str | None]
    country: Mapped[str | None]
    city: Mapped[str | None]
    street: Mapped[str | None]
    postal_code: Mapped[str | None]
    is_primary: Mapped[bool] = mapped_column(server_default=text("false"))
    deleted_at: Mapped[Time | None]


class PointTransaction(Migrated, Stamped, Base):
    """Table ``point_transactions``."""

    __tablename__ = "point_transactions"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    type: Mapped[str]
    source: Mapped[str]
    amount: Mapped[int]
    balance_after: Mapped[int | None]
    description: Mapped[str | None]
    related_id: Mapped[str | None]
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))
