"""Tables that bridge both stores: ObjectId to UUID, and what a dual write could not bring over."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Json, Migrated, Time


class IdMapping(Base):
    """An ObjectId's UUID, by collection."""

    __tablename__ = "id_map"

    collection: Mapped[str] = mapped_column(primary_key=True)
    legacy_object_id: Mapped[str] = mapped_column(primary_key=True)
    new_id: Mapped[UUID]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))


class DualWriteGap(Migrated, Base):
    """What one store has and the other could not take; append-only but for its resolution."""

    __tablename__ = "pg_dualwrite_gaps"

    collection: Mapped[str]
    op: Mapped[str]
    payload: Mapped[Json]
    severity: Mapped[str]
    reason: Mapped[str]
    resolved_at: Mapped[Time | None]
    resolved_by: Mapped[str | None]
    resolution: Mapped[str | None]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
