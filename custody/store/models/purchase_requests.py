"""Purchase requests with their six children and the junction, and the sellers' offers."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, Json, Migrated, Money, OfferPrice, Stamped, Time
from custody.store.models.enums import OfferCurrency, OfferStatus, PurchaseRequestStatus


class PurchaseRequest(Migrated, Stamped, Base):
    """Table ``purchase_requests``."""

    __tablename__ = "purchase_requests"

    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(String(2000), server_default=text("''"))
    product_type: Mapped[str] = mapped_column(server_default=text("'physical_product'"))
    category_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.categories.id", ondelete="SET NULL"))
    product_link: Mapped[str | None]
    size: Mapped[str | None] = mapped_column(String(100))
    color: Mapped[str | None] = mapped_column(String(100))
    brand: Mapped[str | None] = mapped_column(String(100))
    urgency: Mapped[str | None]
    budget_amount: Mapped[Money | None]
    budget_currency: Mapped[str] = mapped_column(server_default=text("'USDT'"))
    status: Mapped[PurchaseRequestStatus] = mapped_column(server_default=text("'pending'"))
    selected_offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.seller_offers.id", ondelete="SET NULL"))
    delivery_code: Mapped[str | None]
    delivered_at: Mapped[Time | None]


class PurchaseRequestDeliveryInfo(Base):
    """Table ``purchase_request_delivery_info``."""

    __tablename__ = "purchase_request_delivery_info"

    purchase_request_id: Mapped[UUID] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="CASCADE"), primary_key=True
    )
    method: Mapped[str | None]
    preferred_date: Mapped[Time | None]
    instructions: Mapped[str | None]
    recipient_name: Mapped[str | None]
    recipient_phone: Mapped[str | None]


class PurchaseRequestDeliveryAddress(Base):
    """Table ``purchase_request_delivery_address``."""

    __tablename__ = "purchase_request_delivery_address"

    purchase_request_id: Mapped[UUID] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="CASCADE"), primary_key=True
    )
    country: Mapped[str | None]
    city: Mapped[str | None]
    street: Mapped[str | None]
    postal_code: Mapped[str | None]


class PurchaseRequestSellerDeliveryInfo(Base):
    """Table ``purchase_request_seller_delivery_info``."""

    __tablename__ = "purchase_request_seller_delivery_info"

    purchase_request_id: Mapped[UUID] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="CASCADE"), primary_key=True
    )
    carrier: Mapped[str | None]
    tracking_number: Mapped[str | None]
    shipped_at: Mapped[Time | None]
    estimated_delivery_at: Mapped[Time | None]
    notes: Mapped[str | None]


class DeliveryAttempt(Base):
    """Table ``delivery_attempts``."""

    __tablename__ = "delivery_attempts"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    purchase_request_id: Mapped[UUID] = mapped_column(ForeignKey("public.purchase_requests.id", ondelete="CASCADE"))
    ordinal: Mapped[int]
    attempted_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id", ondelete="SET NULL"))
    succeeded: Mapped[bool]
    attempted_at: Mapped[Time] = mapped_column(server_default=text("now()"))


class PurchaseRequestServiceInfo(Base):
    """Table ``purchase_request_service_info``."""

    __tablename__ = "purchase_request_service_info"

    purchase_request_id: Mapped[UUID] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="CASCADE"), primary_key=True
    )
    service_type: Mapped[str | None]
    duration: Mapped[str | None]
    location: Mapped[str | None]
    requirements: Mapped[str | None]


class PurchaseRequestSpecification(Base):
    """Table ``purchase_request_specifications``."""

    __tablename__ = "purchase_request_specifications"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    purchase_request_id: Mapped[UUID] = mapped_column(ForeignKey("public.purchase_requests.id", ondelete="CASCADE"))
    key: Mapped[str]
    value: Mapped[str]
    ordinal: Mapped[int] = mapped_column(server_default=text("0"))


class PurchaseRequestPreferredSeller(Base):
    """Table ``purchase_request_preferred_sellers``."""

    __tablename__ = "purchase_request_preferred_sellers"

    purchase_request_id: Mapped[UUID] = mapped_column(
        ForeignKey("public.purchase_requests.id", ondelete="CASCADE"), primary_key=True
    )
    seller_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"), primary_key=True)


class SellerOffer(Migrated, Stamped, Base):
    """Table ``seller_offers``."""

    __tablename__ = "seller_offers"

    seller_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id", ondelete="CASCADE"))
    purchase_request_id: Mapped[UUID] = mapped_column(ForeignKey("public.purchase_requests.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(String(1000), server_default=text("''"))
    price_amount: Mapped[OfferPrice]
    price_currency: Mapped[OfferCurrency]
    status: Mapped[OfferStatus] = mapped_column(server_default=text("'pending'"))
    delivery_days: Mapped[int | None]
    attachments: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    require_aml_check: Mapped[bool] = mapped_column(server_default=text("false"))
    aml_block_on_failure: Mapped[bool] = mapped_column(server_default=text("false"))
