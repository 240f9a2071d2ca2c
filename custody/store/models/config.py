"""Runtime configuration and the history of its numbers."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Json, Migrated, Stamped, Time


class ConfigSetting(Migrated, Stamped, Base):
    """Table ``config_settings``."""

    __tablename__ = "config_settings"

    key: Mapped[str]
    value: Mapped[Json]
    description: Mapped[str | None]
    updated_by: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id"))


class ConfigSettingHistory(Migrated, Base):
    """Table ``config_setting_history``."""

    __tablename__ = "config_setting_history"

    key: Mapped[str] = mapped_column(ForeignKey("public.config_settings.key"))
    old_value: Mapped[Decimal | None]
    new_value: Mapped[Decimal]
    changed_by: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id"))
    changed_at: Mapped[Time] = mapped_column(server_default=text("now()"))
    reason: Mapped[str | None]
    changed_by_label: Mapped[str | None]
