"""Categories."""

from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Migrated, Stamped


class Category(Migrated, Stamped, Base):
    """Table ``categories``."""

    __tablename__ = "categories"

    name: Mapped[str]
    name_en: Mapped[str | None]
    description: Mapped[str | None]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.categories.id", ondelete="SET NULL"))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    sort_order: Mapped[int] = mapped_column(server_default=text("0"))
