"""Chats, notifications, disputes and Telegram."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Json, Migrated, Stamped, Time
from custody.store.models.enums import ChatType, TelegramLinkSource, TelegramLinkStatus


class Chat(Migrated, Stamped, Base):
    """Table ``chats``."""

    __tablename__ = "chats"

    type: Mapped[ChatType] = mapped_column(server_default=text("'direct'"))
    purchase_request_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="SET NULL")
    )
    seller_offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.seller_offers.id", ondelete="SET NULL"))
    name: Mapped[str | None]
    participants: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    messages: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))
    last_message_at: Mapped[Time | None]


class Notification(Migrated, Stamped, Base):
    """Table ``notifications``."""

    __tablename__ = "notifications"

    user_id: Mapped[str]
    title: Mapped[str]
    message: Mapped[str] = mapped_column(server_default=text("''"))
    category: Mapped[str]
    type: Mapped[str]
    is_read: Mapped[bool] = mapped_column(server_default=text("false"))
    related_id: Mapped[str | None]
    action_url: Mapped[str | None]
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))


class Dispute(Migrated, Stamped, Base):
    """Table ``disputes``."""

    __tablename__ = "disputes"

    purchase_request_id: Mapped[str]
    buyer_id: Mapped[str]
    seller_id: Mapped[str]
    admin_id: Mapped[str | None]
    reason: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(String(2000), server_default=text("''"))
    status: Mapped[str] = mapped_column(server_default=text("'open'"))
    priority: Mapped[str] = mapped_column(server_default=text("'medium'"))
    category: Mapped[str] = mapped_column(server_default=text("'other'"))
    evidence: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    timeline: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    resolution: Mapped[Json | None]


class TelegramLink(Migrated, Stamped, Base):
    """Table ``telegram_links``."""

    __tablename__ = "telegram_links"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    telegram_user_id: Mapped[str]
    username: Mapped[str | None]
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    photo_url: Mapped[str | None]
    source: Mapped[TelegramLinkSource]
    status: Mapped[TelegramLinkStatus] = mapped_column(server_default=text("'active'"))
    last_seen_at: Mapped[Time | None]


class TelegramSession(Migrated, Base):
    """Table ``telegram_sessions``."""

    __tablename__ = "telegram_sessions"

    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    telegram_user_id: Mapped[str]
    token_hash: Mapped[str]
    init_data_fingerprint: Mapped[str]
    expires_at: Mapped[Time]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
