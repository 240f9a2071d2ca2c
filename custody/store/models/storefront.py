"""Request templates, reviews, shops and the blog."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Json, Migrated, SmallInt, Stamped, Time
from custody.store.models.enums import ReviewSubjectKind


class RequestTemplate(Migrated, Stamped, Base):
    """Table ``request_templates``."""

    __tablename__ = "request_templates"

    seller_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    category_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.categories.id", ondelete="SET NULL"))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(String(2000), server_default=text("''"))
    product_type: Mapped[str] = mapped_column(server_default=text("'physical_product'"))
    share_link: Mapped[str | None]
    usage_count: Mapped[int] = mapped_column(server_default=text("0"))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    specifications: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    default_proposal: Mapped[Json | None]


class Review(Migrated, Stamped, Base):
    """Table ``reviews``."""

    __tablename__ = "reviews"

    reviewer_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    subject_type: Mapped[ReviewSubjectKind]
    subject_id: Mapped[UUID]
    purchase_request_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="SET NULL")
    )
    rating: Mapped[SmallInt]
    comment: Mapped[str | None]


class ShopSettings(Migrated, Stamped, Base):
    """Table ``shop_settings``."""

    __tablename__ = "shop_settings"

    seller_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    name: Mapped[str]
    description: Mapped[str | None]
    avatar: Mapped[str | None]
    cover_image: Mapped[str | None]
    reviews_enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    social_links: Mapped[Json] = mapped_column(server_default=text("'{}'"))


class BlogPost(Migrated, Stamped, Base):
    """Table ``blog_posts``."""

    __tablename__ = "blog_posts"

    author_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id", ondelete="SET NULL"))
    title: Mapped[str]
    slug: Mapped[str]
    content: Mapped[str] = mapped_column(server_default=text("''"))
    media: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    seo: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    status: Mapped[str] = mapped_column(server_default=text("'draft'"))
    views: Mapped[int] = mapped_column(server_default=text("0"))
    likes: Mapped[int] = mapped_column(server_default=text("0"))
    published_at: Mapped[Time | None]
