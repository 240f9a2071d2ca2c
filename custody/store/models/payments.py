"""Payments and their oracle quotes."""

from uuid import UUID

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from custody.store.models.base import Base, BigInt, Json, Migrated, Money, Stamped, Time
from custody.store.models.enums import EscrowState, PaymentProvider, PaymentStatus, RefKind


class Payment(Migrated, Stamped, Base):
    """Table ``payments``."""

    __tablename__ = "payments"

    purchase_request_ref_kind: Mapped[RefKind]
    purchase_request_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.purchase_requests.id"))
    purchase_request_external_ref: Mapped[str | None]
    seller_offer_ref_kind: Mapped[RefKind]
    seller_offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.seller_offers.id"))
    seller_offer_external_ref: Mapped[str | None]
    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("public.users.id"))
    seller_ref_kind: Mapped[RefKind]
    seller_id: Mapped[UUID | None] = mapped_column(ForeignKey("public.users.id"))
    seller_external_ref: Mapped[str | None]
    amount: Mapped[Money]
    currency: Mapped[str] = mapped_column(server_default=text("'USDT'"))
    provider: Mapped[PaymentProvider] = mapped_column(server_default=text("'request.network'"))
    direction: Mapped[str] = mapped_column(server_default=text("'in'"))
    network: Mapped[str | None]
    chain_id: Mapped[BigInt | None]
    token_address: Mapped[str | None]
    transaction_hash: Mapped[str | None]
    sender: Mapped[str | None]
    confirmations: Mapped[int | None]
    status: Mapped[PaymentStatus] = mapped_column(server_default=text("'pending'"))
    escrow_state: Mapped[EscrowState | None]
    provider_payment_id: Mapped[str | None]
    payment_reference: Mapped[str | None]
    disputed: Mapped[bool] = mapped_column(server_default=text("false"))
    metadata_: Mapped[Json] = mapped_column("metadata", server_default=text("'{}'"))


class PaymentQuote(Base):
    """Table ``payment_quotes``."""

    __tablename__ = "payment_quotes"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("public.payments.id"))
    fx_rate: Mapped[Money]
    token_price_usd: Mapped[Money]
    depeg_adjustment_bps: Mapped[int] = mapped_column(server_default=text("0"))
    settle_amount: Mapped[Money]
    chain_id: Mapped[BigInt]
    token_address: Mapped[str]
    expires_at: Mapped[Time]
    created_at: Mapped[Time] = mapped_column(server_default=text("now()"))
